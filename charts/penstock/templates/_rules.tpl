{{- /* Exactly the calls that are made; tests compare them with the API server's own record. */ -}}

{{- define "penstock.operatorRules" -}}
- apiGroups: [penstock.dev]
  resources: [inferencedeployments]
  verbs: [list, watch]
- apiGroups: [penstock.dev]
  resources: [enginepools]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [penstock.dev]
  resources: [inferencedeployments/status, enginepools/status]
  verbs: [patch]
# An owner reference that blocks the owner's deletion asks for this where that admission check is on.
- apiGroups: [penstock.dev]
  resources: [inferencedeployments/finalizers, enginepools/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]  # created and deleted: those beside a worker that spans nodes
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create, patch]
{{- end }}

{{- define "penstock.gatewayRules" -}}
- apiGroups: [penstock.dev]
  resources: [inferencedeployments]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end }}

{{- /* Rules for a component: in the whole cluster, or in each namespace that is watched. */ -}}
{{- define "penstock.bind" -}}
{{- $rules := printf "penstock.%sRules" .component -}}
{{- if .root.Values.watchNamespaces }}
{{- range .root.Values.watchNamespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ include "penstock.clusterName" $ }}
  namespace: {{ . }}
  labels:
    {{- include "penstock.labels" $ | nindent 4 }}
rules:
{{ include $rules $ }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ include "penstock.clusterName" $ }}
  namespace: {{ . }}
  labels:
    {{- include "penstock.labels" $ | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ include "penstock.clusterName" $ }}
subjects:
- kind: ServiceAccount
  name: {{ include "penstock.name" $ }}
  namespace: {{ $.root.Release.Namespace }}
{{- end }}
{{- else }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "penstock.clusterName" . }}
  labels:
    {{- include "penstock.labels" . | nindent 4 }}
rules:
{{ include $rules . }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "penstock.clusterName" . }}
  labels:
    {{- include "penstock.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ include "penstock.clusterName" . }}
subjects:
- kind: ServiceAccount
  name: {{ include "penstock.name" . }}
  namespace: {{ .root.Release.Namespace }}
{{- end }}
{{- end }}
