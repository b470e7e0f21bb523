{{- define "optipod.selectorLabels" -}}
app.kubernetes.io/name: optipod
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "optipod.labels" -}}
{{ include "optipod.selectorLabels" . }}
app.kubernetes.io/part-of: optipod
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "optipod.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "optipod.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "optipod.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "optipod.probes" -}}
livenessProbe:
  httpGet:
    path: /livez
    port: metrics
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{- /* The API refuses rollingUpdate beside another type, and the default has it. */ -}}
{{- define "optipod.updateStrategy" -}}
{{- if eq .type "RollingUpdate" }}
{{- toYaml . }}
{{- else -}}
type: {{ .type }}
{{- end }}
{{- end }}

{{- define "optipod.scrapeAnnotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9464"
prometheus.io/path: /metrics
{{- end }}

{{- /* Flags about the transport, the same for both programs. */ -}}
{{- define "optipod.transportArgs" -}}
{{- if not .Values.telemetry.insecurePlaintext -}}
{{- fail "TLS between agent and coordinator is not in this version; set telemetry.insecurePlaintext=true to accept plain text inside the cluster network" -}}
{{- end -}}
- --insecure-plaintext
- --frame-interval={{ .Values.telemetry.frameInterval }}
{{- end }}
