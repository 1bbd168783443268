{{- define "exportgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "exportgate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "exportgate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "exportgate.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "exportgate.selector" -}}
app.kubernetes.io/name: {{ include "exportgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "exportgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "exportgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "exportgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "exportgate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "exportgate.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Each pod has a volume claim of its own. */}}
{{- define "exportgate.stateful" -}}
{{- if and .Values.shared.existingSecret .Values.journal.persistence.enabled -}}yes{{- end -}}
{{- end -}}

{{/* A new pod starts before the old one ends. */}}
{{- define "exportgate.surge" -}}
{{- if and (or .Values.zeroDowntime .Values.shared.existingSecret) (not (include "exportgate.stateful" .)) -}}1{{- else -}}0{{- end -}}
{{- end -}}

{{/* How many processes may run at once. Without an engine that they share, each counts Snyk's limit by itself. */}}
{{- define "exportgate.processes" -}}
{{ add .Values.replicas (include "exportgate.surge" .) }}
{{- end -}}

{{/* How many processes the budget is divided by here. */}}
{{- define "exportgate.divisor" -}}
{{- if .Values.shared.existingSecret -}}1{{- else -}}{{ include "exportgate.processes" . }}{{- end -}}
{{- end -}}

{{/* What the schema cannot say: combinations that would not work. */}}
{{- define "exportgate.check" -}}
{{- $clients := without (list .Values.clients.inline .Values.clients.existingSecret .Values.clients.existingConfigMap) "" -}}
{{- if ne (len $clients) 1 -}}
{{- fail "set exactly one of clients.inline, clients.existingSecret and clients.existingConfigMap: other machines are served only where clients are known" -}}
{{- end -}}
{{- if not .Values.shared.existingSecret -}}
{{- if and .Values.journal.persistence.enabled (gt (int (include "exportgate.processes" .)) 1) -}}
{{- fail "journal.persistence needs replicas = 1 and zeroDowntime = false, or shared.existingSecret: a claim is for one pod, and SQLite for one machine" -}}
{{- end -}}
{{- else -}}
{{- if gt (int (include "exportgate.processes" .)) (int .Values.shared.gateways) -}}
{{- fail (printf "shared.gateways is %d, and %s pods may live at once: raise it" (int .Values.shared.gateways) (include "exportgate.processes" .)) -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.shared) -}}
{{- fail "shared.existingSecret needs networkPolicy.shared: the peers where the engine is; nothing else could be reached" -}}
{{- end -}}
{{- if and (include "exportgate.stateful" .) .Values.journal.persistence.existingClaim -}}
{{- fail "journal.persistence.existingClaim is for one pod: leave it empty with shared.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitor.enabled (not .Values.admin.existingSecret) -}}
{{- fail "monitor.enabled needs admin.existingSecret: without it the admin listener is inside the pod only" -}}
{{- end -}}
{{- end -}}
