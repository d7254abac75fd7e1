{{/*
For an application's own chart (shape sidecar): what its pod template includes. Each takes the application's context, or
this chart's (index .Subcharts "the-alias") where the dependency has an alias. Every list may be empty, so that the same
lines serve a native sidecar and a plain container:

  template:
    metadata:
      labels:
        {{- include "authz-service.sidecar.labels" . | nindent 8 }}
      annotations:
        {{- include "authz-service.sidecar.annotations" . | nindent 8 }}
    spec:
      automountServiceAccountToken: false
      securityContext:
        {{- include "authz-service.sidecar.podSecurityContext" . | nindent 8 }}
      initContainers:
        {{- include "authz-service.sidecar.initContainers" . | nindent 8 }}
      containers:
        - name: application
          ...
        {{- include "authz-service.sidecar.containers" . | nindent 8 }}
      volumes:
        {{- include "authz-service.sidecar.volumes" . | nindent 8 }}
*/}}

{{/* Calls .template with this chart's context, found in .context. */}}
{{- define "authz-service.sidecar.call" -}}
{{- $ours := .context -}}
{{- if not (and (hasKey $ours.Values "shape") (hasKey $ours.Values "sidecar") (hasKey $ours.Values "config")) -}}
{{- $ours = index ($ours.Subcharts | default dict) "authz-service" -}}
{{- end -}}
{{- if not $ours -}}
{{- fail (printf "%s: there is no dependency authz-service in this chart; with an alias, include it with (index .Subcharts \"the-alias\") instead of ." .template) -}}
{{- end -}}
{{- include "authz-service.refuse" $ours -}}
{{- if ne $ours.Values.shape "sidecar" -}}
{{- fail (printf "%s: it is for another chart's pod, but shape is %s: set authz-service.shape to sidecar" .template $ours.Values.shape) -}}
{{- end -}}
{{- include (printf "%s.own" .template) $ours -}}
{{- end -}}

{{- define "authz-service.sidecar.labels" -}}
{{- include "authz-service.sidecar.call" (dict "context" . "template" "authz-service.sidecar.labels") -}}
{{- end -}}
{{- define "authz-service.sidecar.labels.own" -}}
{{ include "authz-service.sidecarLabels" . }}
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "authz-service.sidecar.annotations" -}}
{{- include "authz-service.sidecar.call" (dict "context" . "template" "authz-service.sidecar.annotations") -}}
{{- end -}}
{{- define "authz-service.sidecar.annotations.own" -}}
{{- include "authz-service.podAnnotations" . -}}
{{- end -}}

{{- define "authz-service.sidecar.podSecurityContext" -}}
{{- include "authz-service.sidecar.call" (dict "context" . "template" "authz-service.sidecar.podSecurityContext") -}}
{{- end -}}
{{- define "authz-service.sidecar.podSecurityContext.own" -}}
{{- include "authz-service.podSecurity" . -}}
{{- end -}}

{{- define "authz-service.sidecar.initContainers" -}}
{{- include "authz-service.sidecar.call" (dict "context" . "template" "authz-service.sidecar.initContainers") -}}
{{- end -}}
{{- define "authz-service.sidecar.initContainers.own" -}}
{{- if .Values.sidecar.native -}}
- restartPolicy: Always
  {{- include "authz-service.container" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "authz-service.sidecar.containers" -}}
{{- include "authz-service.sidecar.call" (dict "context" . "template" "authz-service.sidecar.containers") -}}
{{- end -}}
{{- define "authz-service.sidecar.containers.own" -}}
{{- if not .Values.sidecar.native -}}
- {{ include "authz-service.container" . | nindent 2 | trim }}
{{- end -}}
{{- end -}}

{{- define "authz-service.sidecar.volumes" -}}
{{- include "authz-service.sidecar.call" (dict "context" . "template" "authz-service.sidecar.volumes") -}}
{{- end -}}
{{- define "authz-service.sidecar.volumes.own" -}}
{{- include "authz-service.volumes" . -}}
{{- end -}}

{{/* Where the application's own Envoy mounts the socket's folder: a unix socket in config.server.grpc_address. */}}
{{- define "authz-service.sidecar.socketMount" -}}
{{- include "authz-service.sidecar.call" (dict "context" . "template" "authz-service.sidecar.socketMount") -}}
{{- end -}}
{{- define "authz-service.sidecar.socketMount.own" -}}
{{- if include "authz-service.isUnix" . -}}
- name: authz-socket
  mountPath: {{ dir (include "authz-service.socket" .) }}
  readOnly: true
{{- end -}}
{{- end -}}

{{/* The rule that lets Prometheus in, for the NetworkPolicy of the application's pods; nothing without peers in
     networkPolicy.metrics. */}}
{{- define "authz-service.sidecar.metricsIngress" -}}
{{- include "authz-service.sidecar.call" (dict "context" . "template" "authz-service.sidecar.metricsIngress") -}}
{{- end -}}
{{- define "authz-service.sidecar.metricsIngress.own" -}}
{{- include "authz-service.metricsIngress" . -}}
{{- end -}}

{{/* The annotations of a pod, in every shape. */}}
{{- define "authz-service.podAnnotations" -}}
{{- $annotations := dict -}}
{{- if .Values.rolloutOnConfigChange -}}
{{- $_ := set $annotations "checksum/authz-config" (include "authz-service.configChecksum" .) -}}
{{- end -}}
{{- if eq .Values.shape "gateway" -}}
{{- $_ := set $annotations "checksum/envoy-config" (include "authz-service.envoy.bootstrap" . | sha256sum) -}}
{{- end -}}
{{- with mergeOverwrite $annotations (deepCopy .Values.podAnnotations) -}}
{{ toYaml . }}
{{- end -}}
{{- end -}}
