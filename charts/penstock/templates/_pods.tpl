{{- /* What the pods of operator, gateway, batch service and endpoint pickers have in common; Pod Security `restricted`, with a read-only root. */ -}}

{{- define "penstock.podSpec" -}}
{{- $values := index .root.Values (include "penstock.key" .) -}}
serviceAccountName: {{ include "penstock.name" . }}
automountServiceAccountToken: {{ ne .component "batches" }}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
{{- with $values.affinity }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "penstock.selector" . | nindent 12 }}
{{- end }}
topologySpreadConstraints:
{{- with $values.topologySpreadConstraints }}
{{- toYaml . | nindent 0 }}
{{- else }}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "penstock.selector" . | nindent 6 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
volumes:
- name: tmp
  emptyDir: {}
{{- if eq .component "batches" }}
- name: data
  persistentVolumeClaim:
    claimName: {{ $values.storage.claim | default (include "penstock.name" .) }}
{{- end }}
{{- if and .pool $values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ $values.tls.secretName }}
{{- end }}
{{- with $values.extraVolumes }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- define "penstock.podMetadata" -}}
{{- $values := index .root.Values (include "penstock.key" .) -}}
labels:
  {{- include "penstock.labels" . | nindent 2 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "penstock.container" -}}
{{- $values := index .root.Values (include "penstock.key" .) -}}
name: {{ .component }}
image: {{ include "penstock.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- $token := "" }}
{{- if ne .component "batches" }}{{ $token = .root.Values.worker.tokenSecret }}{{ end }}
{{- $shared := "" }}
{{- if and (has .component (list "gateway" "batches")) .root.Values.batches.enabled }}{{ $shared = .root.Values.batches.tokenSecret }}{{ end }}
{{- if or $values.extraEnv $token $shared }}
env:
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if $token }}
  - name: PENSTOCK_WORKER_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ $token }}, key: token}
  {{- end }}
  {{- if $shared }}
  - name: PENSTOCK_BATCH_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ $shared }}, key: token}
  {{- end }}
{{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
volumeMounts:
- name: tmp
  mountPath: /tmp
{{- if eq .component "batches" }}
- name: data
  mountPath: /data
{{- end }}
{{- if and .pool $values.tls.secretName }}
- name: tls
  mountPath: /tls
  readOnly: true
{{- end }}
{{- with $values.extraVolumeMounts }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
