{{/*
Shape sidecar: the named templates that an application's own chart includes in its pod template. Each takes the
application's context or, if the dependency has an alias, this chart's: (index .Subcharts "the-alias"). A list may be
empty, so that the same lines work for a native sidecar and for a plain container:

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

{{/* Include the template .template with this chart's context, which is .context or its subchart. */}}
{{- define "authz-service.sidecar.include" -}}
{{- $chart := .context -}}
{{- if not (and (hasKey $chart.Values "shape") (hasKey $chart.Values "sidecar") (hasKey $chart.Values "config")) -}}
{{- $chart = index ($chart.Subcharts | default dict) "authz-service" -}}
{{- end -}}
{{- if not $chart -}}
{{- fail (printf "%s: this chart has no dependency named authz-service; if the dependency has an alias, pass (index .Subcharts \"the-alias\") instead of the dot" .template) -}}
{{- end -}}
{{- include "authz-service.validateValues" $chart -}}
{{- if ne $chart.Values.shape "sidecar" -}}
{{- fail (printf "%s: this template requires shape sidecar, but shape is %s; set authz-service.shape to sidecar" .template $chart.Values.shape) -}}
{{- end -}}
{{- include (printf "%s.content" .template) $chart -}}
{{- end -}}

{{- define "authz-service.sidecar.labels" -}}
{{- include "authz-service.sidecar.include" (dict "context" . "template" "authz-service.sidecar.labels") -}}
{{- end -}}
{{- define "authz-service.sidecar.labels.content" -}}
{{ include "authz-service.sidecarLabels" . }}
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "authz-service.sidecar.annotations" -}}
{{- include "authz-service.sidecar.include" (dict "context" . "template" "authz-service.sidecar.annotations") -}}
{{- end -}}
{{- define "authz-service.sidecar.annotations.content" -}}
{{- include "authz-service.podAnnotations" . -}}
{{- end -}}

{{- define "authz-service.sidecar.podSecurityContext" -}}
{{- include "authz-service.sidecar.include" (dict "context" . "template" "authz-service.sidecar.podSecurityContext") -}}
{{- end -}}
{{- define "authz-service.sidecar.podSecurityContext.content" -}}
{{- include "authz-service.podSecurityContext" . -}}
{{- end -}}

{{- define "authz-service.sidecar.initContainers" -}}
{{- include "authz-service.sidecar.include" (dict "context" . "template" "authz-service.sidecar.initContainers") -}}
{{- end -}}
{{- define "authz-service.sidecar.initContainers.content" -}}
{{- if .Values.sidecar.native -}}
- restartPolicy: Always
  {{- include "authz-service.container" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "authz-service.sidecar.containers" -}}
{{- include "authz-service.sidecar.include" (dict "context" . "template" "authz-service.sidecar.containers") -}}
{{- end -}}
{{- define "authz-service.sidecar.containers.content" -}}
{{- if not .Values.sidecar.native -}}
- {{ include "authz-service.container" . | nindent 2 | trim }}
{{- end -}}
{{- end -}}

{{- define "authz-service.sidecar.volumes" -}}
{{- include "authz-service.sidecar.include" (dict "context" . "template" "authz-service.sidecar.volumes") -}}
{{- end -}}
{{- define "authz-service.sidecar.volumes.content" -}}
{{- include "authz-service.volumes" . -}}
{{- end -}}

{{/* The volume mount of the socket's folder, for the application's own Envoy; empty unless grpc_address is a unix socket. */}}
{{- define "authz-service.sidecar.socketMount" -}}
{{- include "authz-service.sidecar.include" (dict "context" . "template" "authz-service.sidecar.socketMount") -}}
{{- end -}}
{{- define "authz-service.sidecar.socketMount.content" -}}
{{- if include "authz-service.isUnix" . -}}
- name: authz-socket
  mountPath: {{ dir (include "authz-service.socket" .) }}
  readOnly: true
{{- end -}}
{{- end -}}

{{/* The ingress rule for Prometheus, for the application's own NetworkPolicy; empty without networkPolicy.metrics. */}}
{{- define "authz-service.sidecar.metricsIngress" -}}
{{- include "authz-service.sidecar.include" (dict "context" . "template" "authz-service.sidecar.metricsIngress") -}}
{{- end -}}
{{- define "authz-service.sidecar.metricsIngress.content" -}}
{{- include "authz-service.metricsIngress" . -}}
{{- end -}}

{{/* The pod's annotations, in every shape. */}}
{{- define "authz-service.podAnnotations" -}}
{{- $annotations := dict -}}
{{- if and .Values.rolloutOnConfigChange (not .Values.existingConfigMap) -}}
{{- $_ := set $annotations "checksum/authz-config" (include "authz-service.configChecksum" .) -}}
{{- end -}}
{{- if eq .Values.shape "gateway" -}}
{{- $_ := set $annotations "checksum/envoy-config" (include "authz-service.envoy.bootstrap" . | sha256sum) -}}
{{- end -}}
{{- with mergeOverwrite $annotations (deepCopy (.Values.podAnnotations | default dict)) -}}
{{ toYaml . }}
{{- end -}}
{{- end -}}
