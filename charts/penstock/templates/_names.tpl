{{- /* Names, labels and images. A component is called with (dict "root" $ "component" "gateway"); what there is for each
       InferencePool, with its "pool", too. */ -}}

{{- define "penstock.name" -}}
{{- if .pool }}{{ printf "%s-%s" .pool.deployment .component | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .root.Release.Name .component | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Key of a component's values: endpoint-picker's are endpointPicker's. */ -}}
{{- define "penstock.key" -}}
{{ .component | camelcase | untitle }}
{{- end }}

{{- /* Cluster-wide names carry the namespace, so that two installations do not meet. */ -}}
{{- define "penstock.clusterName" -}}
{{ printf "%s-%s-%s" .root.Release.Namespace .root.Release.Name .component }}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
penstock.dev/inference-pool: {{ .deployment }}
{{- end }}
{{- end }}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "penstock.metadata" -}}
name: {{ include "penstock.name" . }}
namespace: {{ if .pool }}{{ .pool.namespace }}{{ else }}{{ .root.Release.Namespace }}{{ end }}
labels:
  {{- include "penstock.labels" . | nindent 2 }}
{{- end }}

{{- define "penstock.image" -}}
{{- $values := index .root.Values (include "penstock.key" .) -}}
{{- if $values.image }}{{ $values.image }}
{{- else if has .component (list "batches" "endpoint-picker") }}{{ include "penstock.image" (dict "root" .root "component" "gateway") }}
{{- else }}{{ .root.Values.image.registry }}/penstock-{{ .component }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "penstock.tenantNamespace" -}}
{{ .Values.gateway.tenants.namespace | default .Release.Namespace }}
{{- end }}
