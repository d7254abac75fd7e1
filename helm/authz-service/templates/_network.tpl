{{/*
Who gets through to which port.
*/}}

{{/* Whether the chart makes a NetworkPolicy. */}}
{{- define "authz-service.isolated" -}}
{{- if kindIs "bool" .Values.networkPolicy.enabled -}}
{{- if .Values.networkPolicy.enabled }}true{{ end -}}
{{- else if ne .Values.shape "sidecar" }}true{{ end -}}
{{- end -}}

{{/* Whether authz-service itself turns away who shows no certificate. */}}
{{- define "authz-service.asksForCertificates" -}}
{{- if ((.Values.config.server).tls).client_ca_file }}true{{ end -}}
{{- end -}}

{{/* Whether a list of peers lets every pod, or every address, through. */}}
{{- define "authz-service.admitsEverybody" -}}
{{- range . -}}
{{- $somePods := or (.podSelector).matchLabels (.podSelector).matchExpressions -}}
{{- $someNamespaces := or (.namespaceSelector).matchLabels (.namespaceSelector).matchExpressions -}}
{{- if and (kindIs "map" .namespaceSelector) (not $someNamespaces) (not $somePods) }}true{{ end -}}
{{- if has (.ipBlock).cidr (list "0.0.0.0/0" "::/0") }}true{{ end -}}
{{- end -}}
{{- end -}}

{{/* The ingress rule for the metrics, as in networking.k8s.io/v1. Without peers there is none: an empty list of them would
     let everybody in. */}}
{{- define "authz-service.metricsIngress" -}}
{{- with .Values.networkPolicy.metrics -}}
- ports:
    - {protocol: TCP, port: {{ include "authz-service.adminPort" $ }}}
    {{- if eq $.Values.shape "gateway" }}
    - {protocol: TCP, port: {{ $.Values.gateway.envoy.statsPort }}}
    {{- end }}
  from:
    {{- toYaml . | nindent 4 }}
{{- end -}}
{{- end -}}
