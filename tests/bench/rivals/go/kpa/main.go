// Command kpa runs Knative Serving's own autoscaler (knative.dev/serving/pkg/autoscaler/scaling), unmodified, and its own metric windows
// (pkg/autoscaler/aggregation) against a world that is told line by line on standard input. Its Scale is given the time, so no clock is needed.
//
// One line in:  {"t": 120, "load": 3.2, "asked": 5, "ready": 4}   load: requests in flight in node capacities (null: the metric is silent)
// One line out: {"nodes": 5}
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/types"
	"knative.dev/serving/pkg/apis/autoscaling"
	"knative.dev/serving/pkg/autoscaler/aggregation"
	"knative.dev/serving/pkg/autoscaler/metrics"
	"knative.dev/serving/pkg/autoscaler/scaling"
)

// concurrencyPerNode is Knative's container-concurrency-target-default: a node at full load has this many requests in flight.
const concurrencyPerNode = 100

const granularity = time.Second

type observation struct {
	T     float64  `json:"t"`
	Load  *float64 `json:"load"`
	Asked int      `json:"asked"`
	Ready int      `json:"ready"`
}

// collected holds the two windows as Knative's metric collector does: with its default algorithm, a plain average of one-second buckets.
type collected struct {
	stable, panic *aggregation.TimedFloat64Buckets
	seen          observation
}

func (c *collected) StableAndPanicConcurrency(_ types.NamespacedName, now time.Time) (float64, float64, error) {
	if c.seen.Load == nil || c.stable.IsEmpty(now) {
		return 0, 0, metrics.ErrNoData
	}
	return c.stable.WindowAverage(now), c.panic.WindowAverage(now), nil
}

func (c *collected) StableAndPanicRPS(types.NamespacedName, time.Time) (float64, float64, error) {
	return 0, 0, metrics.ErrNoData
}

func (c *collected) ReadyCount() (int, error)    { return c.seen.Ready, nil }
func (c *collected) NotReadyCount() (int, error) { return c.seen.Asked - c.seen.Ready, nil }

func main() {
	target := flag.Float64("target", 0.7, "container-concurrency-target-percentage, as a fraction")
	minimum := flag.Int("min", 1, "min-scale")
	maximum := flag.Int("max", 40, "max-scale")
	tick := flag.Duration("tick", 5*time.Second, "time between two lines")
	stable := flag.Duration("stable-window", time.Minute, "stable-window")
	flag.Parse()

	// panic-window-percentage 10 of the stable window, panic-threshold-percentage 200, max-scale-up-rate 1000, max-scale-down-rate 2.
	c := &collected{
		stable: aggregation.NewTimedFloat64Buckets(*stable, granularity),
		panic:  aggregation.NewTimedFloat64Buckets(*stable/10, granularity),
		seen:   observation{Asked: *minimum, Ready: *minimum},
	}
	scaler := scaling.New(context.Background(), "default", "chat", c, c, &scaling.DeciderSpec{
		MaxScaleUpRate: 1000, MaxScaleDownRate: 2, ScalingMetric: autoscaling.Concurrency,
		TargetValue: *target * concurrencyPerNode, TotalValue: concurrencyPerNode,
		TargetBurstCapacity: 211, PanicThreshold: 2, StableWindow: *stable, InitialScale: 1, Reachable: true,
	})
	silent := zap.NewNop().Sugar()
	began := time.Unix(1_600_000_000, 0)
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		if err := json.Unmarshal(lines.Bytes(), &c.seen); err != nil {
			fmt.Fprintf(os.Stderr, "a line must be {\"t\":…,\"load\":…,\"asked\":…,\"ready\":…}, was %q: %v\n", lines.Text(), err)
			os.Exit(2)
		}
		now := began.Add(time.Duration(c.seen.T * float64(time.Second)))
		if c.seen.Load != nil {
			// A scrape a second, all with what was seen at the end of the tick.
			for at := now.Add(-*tick + granularity); !at.After(now); at = at.Add(granularity) {
				c.stable.Record(at, *c.seen.Load*concurrencyPerNode)
				c.panic.Record(at, *c.seen.Load*concurrencyPerNode)
			}
		}
		nodes := c.seen.Asked
		if result := scaler.Scale(silent, now); result.ScaleValid {
			nodes = int(math.Min(math.Max(float64(result.DesiredPodCount), float64(*minimum)), float64(*maximum)))
		}
		if err := answers.Encode(map[string]int{"nodes": nodes}); err != nil {
			os.Exit(1)
		}
	}
}
