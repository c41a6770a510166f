// Command hpa runs Kubernetes' own HorizontalController (k8s.io/kubernetes/pkg/controller/podautoscaler), unmodified, against a world that is
// told line by line on standard input, on a clock that stands still between the lines.
//
// The controller reads time.Now(). It runs inside a bubble of testing/synctest, where time passes only when every goroutine waits: four days
// of reconciles take seconds. The API server, the pods and the metrics are small fakes at the controller's own interfaces.
//
// One line in:  {"load": 3.2, "asked": 5, "ready": 4}   load in node capacities (null: the metric is silent)
// One line out: {"nodes": 5}                            what the controller left in the scale subresource one sync period later
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	autoscalingclient "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	v1core "k8s.io/client-go/kubernetes/typed/core/v1"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
)

const (
	namespace = "default"
	name      = "chat"
	metric    = "node_load"
	// Metric values are milli-values: a load of one node capacity is 1,000 units, so a target of 70 % is 700 units.
	milliPerUnit = 1000
	unitsPerNode = 1000
)

type observation struct {
	Load  *float64 `json:"load"`
	Asked int      `json:"asked"`
	Ready int      `json:"ready"`
}

// world is the API server and the metrics API as the controller sees them.
type world struct {
	seen observation
	hpas cache.Indexer
	pods cache.Indexer
	kind string
}

func main() {
	target := flag.Float64("target", 0.8, "target utilization of a node, as a fraction")
	minimum := flag.Int("min", 1, "minReplicas")
	maximum := flag.Int("max", 40, "maxReplicas")
	kind := flag.String("metric", "Pods", "Pods (the HPA's custom metric per pod) or External (as KEDA sets it up)")
	sync := flag.Duration("sync", 15*time.Second, "horizontal-pod-autoscaler-sync-period")
	tolerance := flag.Float64("tolerance", 0.1, "horizontal-pod-autoscaler-tolerance")
	window := flag.Duration("stabilization", 5*time.Minute, "horizontal-pod-autoscaler-downscale-stabilization")
	testing.Init()
	flag.Parse()
	klog.SetLogger(logr.Discard())
	// One of the handlers waits until a millisecond after the error before, and takes the time the program began for the first one's: in the
	// bubble that is decades ahead, and the controller would never reconcile again after its first silent metric.
	utilruntime.ErrorHandlers = nil
	// A bubble cannot be had without a testing.T, and testing.Main is what gives a program one.
	every := func(string, string) (bool, error) { return true, nil }
	testing.Main(every, []testing.InternalTest{{Name: "hpa", F: func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			serve(t.Context(), newWorld(*kind, *target, *minimum, *maximum), *sync, *tolerance, *window)
		})
	}}}, nil, nil)
}

func newWorld(kind string, target float64, minimum, maximum int) *world {
	w := &world{hpas: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}), pods: podIndexer(), kind: kind}
	quantity := resource.NewMilliQuantity(int64(math.Round(target*unitsPerNode*milliPerUnit)), resource.DecimalSI)
	goal := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: quantity}
	spec := autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType}
	switch kind {
	case "Pods":
		spec.Pods = &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: metric}, Target: goal}
	case "External":
		spec.Type = autoscalingv2.ExternalMetricSourceType
		spec.External = &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: metric}, Target: goal}
	default:
		fmt.Fprintf(os.Stderr, "-metric must be Pods or External, was %s\n", kind)
		os.Exit(2)
	}
	least := int32(minimum)
	err := w.hpas.Add(&autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name},
			MinReplicas:    &least,
			MaxReplicas:    int32(maximum),
			Metrics:        []autoscalingv2.MetricSpec{spec},
		},
	})
	if err != nil {
		panic(err)
	}
	return w
}

func podIndexer() cache.Indexer {
	return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}

func serve(ctx context.Context, w *world, sync time.Duration, tolerance float64, window time.Duration) {
	hpas := &hpaInformer{indexer: w.hpas}
	controller := podautoscaler.NewHorizontalController(
		ctx, noEvents{}, w, w, apimeta.RESTMapper(mapper{}), w, hpas, podInformer{indexer: w.pods}, sync, window, tolerance, 5*time.Minute, 30*time.Second)
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	began := time.Now()
	for tick := 1; lines.Scan(); tick++ {
		if err := json.Unmarshal(lines.Bytes(), &w.seen); err != nil {
			fmt.Fprintf(os.Stderr, "a line must be {\"load\":…,\"asked\":…,\"ready\":…}, was %q: %v\n", lines.Text(), err)
			os.Exit(2)
		}
		w.setPods()
		if tick == 1 {
			hpas.handler.OnAdd(w.hpas.List()[0], true)
			go controller.Run(ctx, 1)
		}
		time.Sleep(time.Until(began.Add(time.Duration(tick) * sync)))
		synctest.Wait()
		if err := answers.Encode(map[string]int{"nodes": w.seen.Asked}); err != nil {
			os.Exit(1)
		}
	}
	os.Exit(0)
}

// setPods makes the pods what was observed: the first `ready` run, the rest are pending as long as their nodes start.
func (w *world) setPods() {
	for number := range max(w.seen.Asked, len(w.pods.ListKeys())) {
		key := fmt.Sprintf("%s/%s-%d", namespace, name, number)
		if number >= w.seen.Asked {
			if found, exists, _ := w.pods.GetByKey(key); exists {
				_ = w.pods.Delete(found)
			}
			continue
		}
		phase := v1.PodRunning
		if number >= w.seen.Ready {
			phase = v1.PodPending
		}
		if found, exists, _ := w.pods.GetByKey(key); exists && found.(*v1.Pod).Status.Phase == phase {
			continue
		}
		now := metav1.Now()
		_ = w.pods.Add(&v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%d", name, number), Labels: map[string]string{"app": name}},
			Status:     v1.PodStatus{Phase: phase, StartTime: &now},
		})
	}
}

// The metrics API.

var errSilent = errors.New("the metric is silent")

func (w *world) GetRawMetric(string, string, labels.Selector, labels.Selector) (metrics.PodMetricsInfo, time.Time, error) {
	if w.seen.Load == nil || w.seen.Ready == 0 {
		return nil, time.Time{}, errSilent
	}
	each := int64(math.Round(*w.seen.Load / float64(w.seen.Ready) * unitsPerNode * milliPerUnit))
	info := make(metrics.PodMetricsInfo, w.seen.Ready)
	for number := range w.seen.Ready {
		info[fmt.Sprintf("%s-%d", name, number)] = metrics.PodMetric{Timestamp: time.Now(), Window: time.Minute, Value: each}
	}
	return info, time.Now(), nil
}

func (w *world) GetExternalMetric(string, string, labels.Selector) ([]int64, time.Time, error) {
	if w.seen.Load == nil {
		return nil, time.Time{}, errSilent
	}
	return []int64{int64(math.Round(*w.seen.Load * unitsPerNode * milliPerUnit))}, time.Now(), nil
}

func (w *world) GetResourceMetric(context.Context, v1.ResourceName, string, labels.Selector, string) (metrics.PodMetricsInfo, time.Time, error) {
	return nil, time.Time{}, errors.New("this world has no resource metrics")
}

func (w *world) GetObjectMetric(string, string, *autoscalingv2.CrossVersionObjectReference, labels.Selector) (int64, time.Time, error) {
	return 0, time.Time{}, errors.New("this world has no object metrics")
}

// The scale subresource.

func (w *world) Scales(string) scale.ScaleInterface { return scales{world: w} }

type scales struct {
	scale.ScaleInterface
	world *world
}

func (s scales) Get(context.Context, schema.GroupResource, string, metav1.GetOptions) (*autoscalingv1.Scale, error) {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       autoscalingv1.ScaleSpec{Replicas: int32(s.world.seen.Asked)},
		Status:     autoscalingv1.ScaleStatus{Replicas: int32(s.world.seen.Asked), Selector: "app=" + name},
	}, nil
}

func (s scales) Update(_ context.Context, _ schema.GroupResource, wanted *autoscalingv1.Scale, _ metav1.UpdateOptions) (*autoscalingv1.Scale, error) {
	s.world.seen.Asked = int(wanted.Spec.Replicas)
	return wanted, nil
}

// The autoscaler object's client and informer.

func (w *world) HorizontalPodAutoscalers(string) autoscalingclient.HorizontalPodAutoscalerInterface {
	return hpaClient{world: w}
}

type hpaClient struct {
	autoscalingclient.HorizontalPodAutoscalerInterface
	world *world
}

func (c hpaClient) UpdateStatus(_ context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, _ metav1.UpdateOptions) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	return hpa, c.world.hpas.Update(hpa)
}

type hpaInformer struct {
	cache.SharedIndexInformer
	indexer cache.Indexer
	handler cache.ResourceEventHandler
}

func (i *hpaInformer) Informer() cache.SharedIndexInformer { return i }
func (i *hpaInformer) HasSynced() bool                     { return true }
func (i *hpaInformer) Lister() autoscalinglisters.HorizontalPodAutoscalerLister {
	return autoscalinglisters.NewHorizontalPodAutoscalerLister(i.indexer)
}

func (i *hpaInformer) AddEventHandlerWithResyncPeriod(handler cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	i.handler = handler
	return nil, nil
}

type podInformer struct {
	cache.SharedIndexInformer
	indexer cache.Indexer
}

func (i podInformer) Informer() cache.SharedIndexInformer { return i }
func (i podInformer) HasSynced() bool                     { return true }
func (i podInformer) Lister() corelisters.PodLister       { return corelisters.NewPodLister(i.indexer) }

// Events go nowhere.

type noEvents struct{}

func (noEvents) Events(string) v1core.EventInterface { return dropEvents{} }

type dropEvents struct{ v1core.EventInterface }

func (dropEvents) CreateWithEventNamespaceWithContext(_ context.Context, event *v1.Event) (*v1.Event, error) {
	return event, nil
}

func (dropEvents) UpdateWithEventNamespaceWithContext(_ context.Context, event *v1.Event) (*v1.Event, error) {
	return event, nil
}

func (dropEvents) PatchWithEventNamespaceWithContext(_ context.Context, event *v1.Event, _ []byte) (*v1.Event, error) {
	return event, nil
}

func (dropEvents) CreateWithEventNamespace(event *v1.Event) (*v1.Event, error) { return event, nil }
func (dropEvents) UpdateWithEventNamespace(event *v1.Event) (*v1.Event, error) { return event, nil }
func (dropEvents) PatchWithEventNamespace(event *v1.Event, _ []byte) (*v1.Event, error) {
	return event, nil
}

func (dropEvents) Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (*v1.Event, error) {
	return &v1.Event{}, nil
}

// One kind of target is known.

type mapper struct{ apimeta.RESTMapper }

func (mapper) RESTMappings(kind schema.GroupKind, _ ...string) ([]*apimeta.RESTMapping, error) {
	return []*apimeta.RESTMapping{{
		Resource:         schema.GroupVersionResource{Group: kind.Group, Version: "v1", Resource: "deployments"},
		GroupVersionKind: kind.WithVersion("v1"),
		Scope:            apimeta.RESTScopeNamespace,
	}}, nil
}
