{{- define "portcullis.name" -}}
{{- if contains "portcullis" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-portcullis" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end -}}
{{- end }}
{{- define "portcullis.selector" -}}
app.kubernetes.io/name: portcullis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "portcullis.labels" -}}
{{ include "portcullis.selector" . }}
app.kubernetes.io/part-of: portcullis
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
{{- define "portcullis.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
{{- define "portcullis.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
{{- end }}
{{/* The gateway's container, in either shape. */}}
{{- define "portcullis.container" -}}
- name: portcullis
  image: {{ include "portcullis.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if eq .Values.shape "sidecar" }}
  restartPolicy: Always
  {{- end }}
  args: [run, -c, /etc/portcullis/config/portcullis.yaml]
  ports:
    {{- range .Values.ports }}
    - { name: {{ .name }}, containerPort: {{ .containerPort }} }
    {{- end }}
    - { name: ops, containerPort: 9180 }
  startupProbe:
    httpGet: { path: /startupz, port: ops }
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet: { path: /readyz, port: ops }
    periodSeconds: 5
  livenessProbe:
    httpGet: { path: /livez, port: ops }
    periodSeconds: 10
    failureThreshold: 3
  {{- if eq .Values.shape "sidecar" }}
  # Says that the pod leaves and waits; it does not end the process, which would be started again.
  lifecycle:
    preStop:
      exec:
        command: [/usr/local/bin/portcullis, drain, --config=/etc/portcullis/config/portcullis.yaml, --delay=8, --timeout=10]
  {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  resources: {{- toYaml .Values.resources | nindent 4 }}
  securityContext: {{- include "portcullis.restricted" . | nindent 4 }}
  volumeMounts:
    - { name: config, mountPath: /etc/portcullis/config, readOnly: true }
    - { name: secrets, mountPath: /etc/portcullis/secrets, readOnly: true }
    {{- if .Values.tlsSecretName }}
    - { name: tls, mountPath: /etc/portcullis/tls, readOnly: true }
    {{- end }}
{{- end }}
