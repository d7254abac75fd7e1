{{/*
Contradictions: what the schema cannot see. Each says what is wrong and what to write instead; all are told at once.
*/}}
{{- define "authz-service.refuse" -}}
{{- $problems := concat
  (include "authz-service.refuse.config" . | fromYamlArray)
  (include "authz-service.refuse.addresses" . | fromYamlArray)
  (include "authz-service.refuse.files" . | fromYamlArray)
  (include "authz-service.refuse.scaling" . | fromYamlArray)
  (include "authz-service.refuse.shape" . | fromYamlArray)
  (include "authz-service.refuse.clients" . | fromYamlArray)
  (include "authz-service.refuse.service" . | fromYamlArray)
  (include "authz-service.refuse.monitoring" . | fromYamlArray)
-}}
{{- if $problems -}}
{{- fail (printf "\n\nauthz-service: these values contradict each other or leave something open:\n\n  * %s\n" (join "\n  * " $problems)) -}}
{{- end -}}
{{- end -}}

{{- define "authz-service.refuse.config" -}}
{{- if not .Values.config.issuers }}
- "config.issuers is missing: name whose access tokens are accepted, such as config: {issuers: [{issuer: https://idp.example.com/, audiences: [https://api.example.com/]}]}; or begin with a file of helm/authz-service/values/"
{{- end }}
{{- if not .Values.config.rules }}
- "config.rules is missing: without a rule nobody gets in; such as config: {rules: [{name: all, match: {paths: [\"/v1/**\"]}}]}"
{{- end }}
{{- $drain := ternary (int .Values.gateway.envoy.drainSeconds) 0 (eq .Values.shape "gateway") }}
{{- $grace := add $drain (include "authz-service.seconds" ((.Values.config.server).shutdown_delay | default "0s")) (include "authz-service.seconds" ((.Values.config.server).shutdown_grace | default "10s")) }}
{{- if gt (int $grace) (int .Values.terminationGracePeriodSeconds) }}
- "terminationGracePeriodSeconds is {{ .Values.terminationGracePeriodSeconds }}, but {{ if $drain }}gateway.envoy.drainSeconds, {{ end }}config.server.shutdown_delay and shutdown_grace take {{ $grace }} s together: set it to at least {{ add $grace 5 }}"
{{- end }}
{{- end -}}

{{- define "authz-service.refuse.addresses" -}}
{{- $grpc := include "authz-service.grpcAddress" . -}}
{{- $admin := include "authz-service.adminAddress" . -}}
{{- if and (eq .Values.shape "service") (or (include "authz-service.isUnix" .) (include "authz-service.isLoopback" $grpc)) }}
- "config.server.grpc_address is {{ $grpc }}, which no other pod reaches, but shape is service: set it to 0.0.0.0:9191 ([::]:9191 on IPv6), or choose shape sidecar or gateway"
{{- end }}
{{- if and (eq .Values.shape "gateway") (not (include "authz-service.isUnix" .)) }}
- "config.server.grpc_address is {{ $grpc }}, but with shape gateway Envoy asks over a unix socket, which nobody outside the pod reaches: set it to unix:/run/authz/authz.sock"
{{- end }}
{{- if include "authz-service.isUnix" . }}
{{- $folder := dir (include "authz-service.socket" .) }}
{{- if or (not (hasPrefix "/" $folder)) (regexMatch "^(/|/run|/tmp|/var|/var/lib/authz-service|/(bin|dev|etc|lib|lib64|opt|proc|sbin|sys|usr)(/.*)?)$" $folder) }}
- "config.server.grpc_address is {{ $grpc }}: a volume is mounted over the socket's folder, so it needs an absolute path and a folder of its own, such as unix:/run/authz/authz.sock"
{{- end }}
{{- else if eq (include "authz-service.portOf" $grpc) (include "authz-service.portOf" $admin) }}
- "config.server.grpc_address and admin_address have the same port {{ include "authz-service.portOf" $admin }}: set one of them to another"
{{- end }}
{{- if include "authz-service.isLoopback" $admin }}
- "config.server.admin_address is {{ $admin }}, which the kubelet's probes and Prometheus do not reach: set it to 0.0.0.0:9192 ([::]:9192 on IPv6); it serves health and metrics alone"
{{- end }}
{{- end -}}

{{- define "authz-service.refuse.files" -}}
{{- $secret := include "authz-service.tlsSecret" . -}}
{{- if and .Values.tls.existingSecret .Values.tls.certificate.enabled }}
- "tls.existingSecret and tls.certificate.enabled are both set: keep one; a Certificate writes a Secret of its own"
{{- end }}
{{- if and .Values.tls.certificate.enabled (not .Values.tls.certificate.issuerRef.name) }}
- "tls.certificate.enabled without tls.certificate.issuerRef: say who signs it, such as {name: my-issuer, kind: ClusterIssuer}"
{{- end }}
{{- if eq .Values.shape "gateway" }}
{{- if include "authz-service.servesTls" . }}
- "config.server.tls is set, but with shape gateway authz-service is asked over a unix socket and the certificate is Envoy's: remove config.server.tls"
{{- end }}
{{- else if and $secret (not (include "authz-service.servesTls" .)) }}
- "tls gives a certificate that config.server does not serve: add config: {server: {tls: {certificate_file: /etc/authz-tls/tls.crt, key_file: /etc/authz-tls/tls.key}}}, or remove tls"
{{- else if and (not $secret) (include "authz-service.names" (dict "folder" "/etc/authz-tls/" "config" .Values.config)) }}
- "the configuration names a file in /etc/authz-tls/, but there is no certificate: set tls.existingSecret, or tls.certificate.enabled with an issuerRef"
{{- end }}
{{- $names := list }}
{{- range .Values.secrets }}
{{- if has .name $names }}
- "secrets has the name {{ .name }} twice: each is a folder of its own"
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- range $path := regexFindAll "/etc/authz-secrets/[^/\"]*" (toJson .Values.config) -1 | uniq }}
{{- $name := trimPrefix "/etc/authz-secrets/" $path }}
{{- if not (has $name $names) }}
- "the configuration names a file in {{ $path }}/, which is no Secret: add secrets: [{name: {{ $name }}, secretName: the-secret}]"
{{- end }}
{{- end }}
{{- range .Values.config.issuers }}
{{- with (.keys).snapshot_file }}
{{- if not (hasPrefix "/" .) }}
- "config.issuers: snapshot_file {{ . }} is relative, and the configuration's folder cannot be written: write /var/lib/authz-service/{{ base . }}"
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "authz-service.refuse.scaling" -}}
{{- if .Values.autoscaling.enabled }}
{{- if eq .Values.shape "sidecar" }}
- "autoscaling.enabled with shape sidecar: the pods are the application's; remove it, and scale the application"
{{- end }}
{{- if lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas) }}
- "autoscaling.maxReplicas {{ .Values.autoscaling.maxReplicas }} is less than minReplicas {{ .Values.autoscaling.minReplicas }}: raise it"
{{- end }}
{{- if not ((.Values.resources).requests).cpu }}
- "autoscaling.enabled without resources.requests.cpu: utilisation is measured against it; set it, such as 100m"
{{- end }}
{{- end }}
{{- $replicas := ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled }}
{{- if and (ne .Values.shape "sidecar") .Values.podDisruptionBudget.enabled (has (toString .Values.podDisruptionBudget.maxUnavailable) (list "0" "0%")) }}
- "podDisruptionBudget.maxUnavailable is {{ .Values.podDisruptionBudget.maxUnavailable }}: no node could ever be drained; set it to 1"
{{- end }}
{{- if and (eq .Values.shape "service") .Values.podDisruptionBudget.enabled (lt (int $replicas) 2) }}
- "podDisruptionBudget.enabled with {{ $replicas }} replica: it protects nobody, since the only pod may be taken away; set replicas (or autoscaling.minReplicas) to 2, or podDisruptionBudget.enabled to false"
{{- end }}
{{- end -}}

{{- define "authz-service.refuse.shape" -}}
{{- if and (ne .Values.shape "service") .Values.sidecar.native (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) }}
- "sidecar.native needs Kubernetes 1.29, this is {{ .Capabilities.KubeVersion.Version }}: set sidecar.native to false"
{{- end }}
{{- if and (eq .Values.shape "sidecar") (include "authz-service.isolated" .) }}
- "networkPolicy.enabled with shape sidecar: the pod is the application's, and a policy that selects it would close the application's own ports; remove it, and write the policy in the application's chart, with authz-service.sidecar.metricsIngress in it"
{{- end }}
{{- if eq .Values.shape "gateway" }}
{{- if not .Values.gateway.application.image }}
- "gateway.application.image is missing: shape gateway runs the application that it protects; set it, or choose shape service or sidecar"
{{- end }}
{{- $ports := list (int .Values.gateway.application.port) (int .Values.gateway.envoy.port) (int .Values.gateway.envoy.statsPort) (int (include "authz-service.adminPort" .)) }}
{{- if ne (len $ports) (len (uniq $ports)) }}
- "gateway.application.port, gateway.envoy.port, gateway.envoy.statsPort and the port of config.server.admin_address are {{ join ", " $ports }}: they share one pod, so each must be another"
{{- end }}
{{- else if .Values.gateway.application.image }}
- "gateway.application.image is set, but shape is {{ .Values.shape }}: set shape to gateway, or remove it"
{{- end }}
{{- end -}}

{{/* Who may ask (shape service), and read metrics. */}}
{{- define "authz-service.refuse.clients" -}}
{{- $remedy := "name the proxies in networkPolicy.clients, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress}}}]; or ask them for certificates by config.server.tls.client_ca_file; or set allowAnyClient to true where something else limits it, such as a mesh's AuthorizationPolicy" }}
{{- if ne .Values.shape "service" }}
{{- if .Values.allowAnyClient }}
- "allowAnyClient with shape {{ .Values.shape }}: it is for shape service; remove it"
{{- end }}
{{- else if not (or .Values.allowAnyClient (include "authz-service.asksForCertificates" .)) }}
{{- if not (include "authz-service.isolated" .) }}
- "networkPolicy.enabled is false, so every pod of the cluster could ask authz-service and learn which tokens are good: {{ $remedy }}"
{{- else if kindIs "invalid" .Values.networkPolicy.clients }}
- "networkPolicy.clients is missing: every pod of the cluster could ask authz-service and learn which tokens are good; {{ $remedy }}"
{{- else if include "authz-service.admitsEverybody" .Values.networkPolicy.clients }}
- "networkPolicy.clients admits everybody, so every pod of the cluster could ask authz-service and learn which tokens are good: {{ $remedy }}"
{{- end }}
{{- end }}
{{- if and .Values.networkPolicy.extraEgress (not (kindIs "slice" .Values.networkPolicy.egressPorts)) }}
- "networkPolicy.extraEgress without networkPolicy.egressPorts, which already leaves every port open: set egressPorts, such as [443], or remove extraEgress"
{{- end }}
{{- end -}}

{{- define "authz-service.refuse.service" -}}
{{- if and .Values.service.headless (or (ne .Values.shape "service") (ne .Values.service.type "ClusterIP") .Values.service.port) }}
- "service.headless is for shape service, type ClusterIP and the port of config.server.grpc_address, since clients then connect to the pods themselves: remove service.port and service.type, or headless"
{{- end }}
{{- end -}}

{{- define "authz-service.refuse.monitoring" -}}
{{- with .Values.monitoring }}
{{- if and (or .podMonitor.enabled .serviceMonitor.enabled) (include "authz-service.isolated" $) (not $.Values.networkPolicy.metrics) }}
- "monitoring.{{ ternary "podMonitor" "serviceMonitor" .podMonitor.enabled }}.enabled, but networkPolicy.metrics lets nobody read: name Prometheus there, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]"
{{- end }}
{{- if and .podMonitor.enabled .serviceMonitor.enabled }}
- "monitoring.podMonitor and monitoring.serviceMonitor are both enabled: every sample would be counted twice; keep one"
{{- end }}
{{- if and .serviceMonitor.enabled (ne $.Values.shape "service") }}
- "monitoring.serviceMonitor with shape {{ $.Values.shape }}: no Service has the metrics port; enable monitoring.podMonitor instead"
{{- end }}
{{- if and .prometheusRule.enabled (not ($.Files.Get "alerts/authz-service.yaml")) }}
- "monitoring.prometheusRule.enabled, but this copy of the chart has no alerts/authz-service.yaml: take the whole chart"
{{- end }}
{{- if and .dashboard.enabled (not ($.Files.Get "dashboards/authz-service.json")) }}
- "monitoring.dashboard.enabled, but this copy of the chart has no dashboards/authz-service.json: take the whole chart"
{{- end }}
{{- end }}
{{- if and .Values.test.url (ne .Values.shape "sidecar") }}
- "test.url is set, but shape is {{ .Values.shape }}, whose address the chart knows: remove it"
{{- end }}
{{- end -}}
