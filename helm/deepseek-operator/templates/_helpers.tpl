{{/* Name of the chart, 40 characters at most so that what is appended fits into 63. */}}
{{- define "deepseek-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Name of the release's objects. */}}
{{- define "deepseek-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "deepseek-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "deepseek-operator.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "deepseek-operator.forecaster" -}}
{{ include "deepseek-operator.fullname" . }}-forecaster
{{- end }}

{{/* Labels of every object. */}}
{{- define "deepseek-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: deepseek-operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels that find one component's pods; called with (dict "root" $ "component" "operator"). */}}
{{- define "deepseek-operator.selector" -}}
app.kubernetes.io/name: {{ include "deepseek-operator.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image reference; called with (dict "root" $ "image" .Values.operator.image). */}}
{{- define "deepseek-operator.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end }}
{{- end }}

{{- define "deepseek-operator.prometheusUrl" -}}
{{ required "prometheus.url is required: the URL of the Prometheus that scrapes the Ray pods, for example --set prometheus.url=http://prometheus-server.monitoring.svc:9090" .Values.prometheus.url }}
{{- end }}

{{- define "deepseek-operator.kuberayNamespace" -}}
{{ required "networkPolicy.ray.kuberayNamespace is required where Ray pods get a NetworkPolicy (networkPolicy.ray.namespaces or watch.namespaces): the namespace the KubeRay operator runs in, for example --set networkPolicy.ray.kuberayNamespace=kuberay-system; see kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator" .Values.networkPolicy.ray.kuberayNamespace }}
{{- end }}

{{/* Where and as what a component's pod runs: its nodes, its priority, without any privilege (Pod Security restricted). */}}
{{- define "deepseek-operator.podSettings" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "deepseek-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Egress to the cluster's DNS. */}}
{{- define "deepseek-operator.dnsEgress" -}}
- to:
  - namespaceSelector: {}
  ports:
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
{{- end }}

{{/* The rules of the operator's Role or ClusterRole: what it does, and nothing else. */}}
{{- define "deepseek-operator.rules" -}}
- apiGroups: [inference.deepseek.dev]
  resources: [deepseekdeployments]
  verbs: [get, list, watch]
- apiGroups: [inference.deepseek.dev]
  resources: [deepseekdeployments/status]
  verbs: [patch]
- apiGroups: [ray.io]
  resources: [rayservices]
  verbs: [get, list, watch, create, patch]   # deleted through its owner reference, also while the operator is down
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
