{{/*
Names, labels and the image.

The named templates of this chart take the chart's own context. An application's chart that has this one as a dependency
may pass its own context to those in _sidecar.tpl, which find ours in it. They are called as
  {{ include "authz-service.sidecar.containers" . }}
or, where the dependency has an alias,
  {{ include "authz-service.sidecar.containers" (index .Subcharts "the-alias") }}
*/}}

{{- define "authz-service.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "authz-service.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "authz-service.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "authz-service.selectorLabels" -}}
app.kubernetes.io/name: {{ include "authz-service.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "authz-service.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "authz-service.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/component: authorization
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of the pod that `helm test` starts, which must not be taken for one of ours. */}}
{{- define "authz-service.testSelectorLabels" -}}
app.kubernetes.io/name: {{ include "authz-service.name" . | trunc 58 | trimSuffix "-" }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What a pod with the sidecar is found by: it is the application's, and has the application's names. */}}
{{- define "authz-service.sidecarLabels" -}}
authz-service/sidecar: {{ include "authz-service.fullname" . }}
{{- end -}}

{{- define "authz-service.podSelector" -}}
{{- if eq .Values.shape "sidecar" -}}
{{ include "authz-service.sidecarLabels" . }}
{{- else -}}
{{ include "authz-service.selectorLabels" . }}
{{- end -}}
{{- end -}}

{{- define "authz-service.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "authz-service.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "authz-service.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "authz-service.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (ternary (printf "%s-tls" (include "authz-service.fullname" .)) "" .Values.tls.certificate.enabled) -}}
{{- end -}}
