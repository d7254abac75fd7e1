{{/*
Contradictions between values, which the schema cannot detect. Each message names the problem and the remedy, and all
problems are reported at once.
*/}}
{{- define "authz-service.validateValues" -}}
{{- include "authz-service.validateValues.present" . -}}
{{- $problems := concat
  (include "authz-service.validateValues.config" . | fromYamlArray)
  (include "authz-service.validateValues.addresses" . | fromYamlArray)
  (include "authz-service.validateValues.files" . | fromYamlArray)
  (include "authz-service.validateValues.state" . | fromYamlArray)
  (include "authz-service.validateValues.scaling" . | fromYamlArray)
  (include "authz-service.validateValues.shape" . | fromYamlArray)
  (include "authz-service.validateValues.clients" . | fromYamlArray)
  (include "authz-service.validateValues.service" . | fromYamlArray)
  (include "authz-service.validateValues.monitoring" . | fromYamlArray)
-}}
{{- if $problems -}}
{{- fail (printf "\n\nauthz-service: the values are contradictory or incomplete:\n\n  * %s\n" (join "\n  * " $problems)) -}}
{{- end -}}
{{- end -}}

{{/* Sections, and values without which no template can be rendered. `null` removes a value, and `--reuse-values` omits those
     that are new in a version of the chart. */}}
{{- define "authz-service.validateValues.present" -}}
{{- $missing := list -}}
{{- range $path := list "image" "config" "checkConfig" "stateVolume" "tls" "tls.certificate" "tls.certificate.enabled" "autoscaling" "autoscaling.enabled" "podDisruptionBudget" "podDisruptionBudget.enabled" "probes" "serviceAccount" "serviceAccount.create" "service" "networkPolicy" "monitoring" "monitoring.podMonitor" "monitoring.serviceMonitor" "monitoring.prometheusRule" "monitoring.prometheusRule.slo" "monitoring.prometheusRule.slo.latencyThreshold" "monitoring.dashboard" "sidecar" "gateway" "gateway.application" "gateway.envoy" "gateway.envoy.port" "gateway.envoy.statsPort" "test" -}}
{{- $section := $.Values -}}
{{- range splitList "." $path -}}
{{- if $section -}}
{{- if not (hasKey $section .) -}}
{{- $missing = append $missing $path -}}
{{- $section = dict -}}
{{- else if kindIs "map" (get $section .) -}}
{{- $section = get $section . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $missing -}}
{{- fail (printf "\n\nauthz-service: the values lack %s: remove `null` there; or, after `helm upgrade --reuse-values`, which omits what is new in this version of the chart, pass your values files, or use --reset-then-reuse-values\n" (join ", " $missing)) -}}
{{- end -}}
{{- end -}}

{{- define "authz-service.validateValues.config" -}}
{{- if .Values.existingConfigMap }}
{{- if or .Values.config.issuers .Values.config.rules }}
- "existingConfigMap is {{ .Values.existingConfigMap }}, so config.issuers and config.rules have no effect: remove them, or existingConfigMap"
{{- end }}
{{- else }}
{{- if not .Values.config.issuers }}
- "config.issuers is missing: add the issuers whose access tokens are accepted, such as config: {issuers: [{issuer: https://idp.example.com/, audiences: [https://api.example.com/]}]}; or start from a file in the chart's folder values/"
{{- end }}
{{- if not .Values.config.rules }}
- "config.rules is missing, and without a rule every request is denied: add rules, such as config: {rules: [{name: all, match: {paths: [\"/v1/**\"]}}]}"
{{- end }}
{{- end }}
{{- $stop := include "authz-service.stopSeconds" . }}
{{- if gt (int $stop) (include "authz-service.terminationGracePeriodSeconds" . | int) }}
- "terminationGracePeriodSeconds is {{ .Values.terminationGracePeriodSeconds }}, but {{ if eq .Values.shape "gateway" }}gateway.envoy.drainSeconds ({{ include "authz-service.drainSeconds" . }}), {{ end }}config.server.shutdown_delay and shutdown_grace add up to {{ $stop }} s: remove it, or set it to at least {{ add $stop 5 }}"
{{- end }}
{{- end -}}

{{- define "authz-service.validateValues.addresses" -}}
{{- $grpc := include "authz-service.grpcAddress" . -}}
{{- $admin := include "authz-service.adminAddress" . -}}
{{- if and (eq .Values.shape "service") (or (include "authz-service.isUnix" .) (include "authz-service.isLoopback" $grpc)) }}
- "config.server.grpc_address is {{ $grpc }}, which other pods cannot reach, but shape is service: set it to 0.0.0.0:9191 ([::]:9191 on IPv6), or choose shape sidecar or gateway"
{{- end }}
{{- if and (eq .Values.shape "gateway") (not (include "authz-service.isUnix" .)) }}
- "config.server.grpc_address is {{ $grpc }}, but with shape gateway Envoy connects over a unix socket, which only the pod can reach: set it to unix:/run/authz/authz.sock"
{{- end }}
{{- if include "authz-service.isUnix" . }}
{{- $folder := dir (include "authz-service.socket" .) }}
{{- if or (not (hasPrefix "/" $folder)) (regexMatch "^(/|/run|/tmp|/var|/var/lib/authz-service|/(bin|dev|etc|lib|lib64|opt|proc|sbin|sys|usr)(/.*)?)$" $folder) }}
- "config.server.grpc_address is {{ $grpc }}: a volume is mounted at the socket's folder, so it needs an absolute path and its own folder, such as unix:/run/authz/authz.sock"
{{- end }}
{{- else if eq (include "authz-service.port" $grpc) (include "authz-service.port" $admin) }}
- "config.server.grpc_address and admin_address have the same port {{ include "authz-service.port" $admin }}: change one of them"
{{- end }}
{{- if include "authz-service.isLoopback" $admin }}
- "config.server.admin_address is {{ $admin }}, which the kubelet's probes and Prometheus cannot reach: set it to 0.0.0.0:9192 ([::]:9192 on IPv6); this port serves only health and metrics"
{{- end }}
{{- end -}}

{{- define "authz-service.validateValues.files" -}}
{{- range without (include "authz-service.apiServerFiles" . | fromYamlArray) "token" "ca.crt" }}
- "the configuration uses the file /var/run/secrets/api-server/{{ . }}, but this folder has only token and ca.crt: use these, or mount your own volume there with extraVolumes and extraVolumeMounts"
{{- end }}
{{- $secret := include "authz-service.tlsSecret" . -}}
{{- if and .Values.tls.existingSecret .Values.tls.certificate.enabled }}
- "tls.existingSecret and tls.certificate.enabled are both set: keep one; a Certificate writes its own Secret"
{{- end }}
{{- if and .Values.tls.certificate.enabled (not (.Values.tls.certificate.issuerRef).name) }}
- "tls.certificate.enabled requires tls.certificate.issuerRef: set the issuer that signs it, such as {name: my-issuer, kind: ClusterIssuer}"
{{- end }}
{{- if eq .Values.shape "gateway" }}
{{- if include "authz-service.servesTls" . }}
- "config.server.tls is set, but with shape gateway Envoy serves the certificate and connects to authz-service over a unix socket: remove config.server.tls"
{{- end }}
{{- else if and $secret (not (include "authz-service.servesTls" .)) }}
- "tls provides a certificate, but config.server.tls does not use it: add config: {server: {tls: {certificate_file: /etc/authz-tls/tls.crt, key_file: /etc/authz-tls/tls.key}}}, or remove tls"
{{- else if and (not $secret) (include "authz-service.usesFolder" (dict "folder" "/etc/authz-tls/" "config" .Values.config)) }}
- "the configuration uses a file in /etc/authz-tls/, but there is no certificate: set tls.existingSecret, or tls.certificate.enabled with an issuerRef"
{{- end }}
{{- $names := list }}
{{- range .Values.secrets }}
{{- if has .name $names }}
- "secrets has the name {{ .name }} twice: each name is a folder, so rename one"
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- range $path := regexFindAll "/etc/authz-secrets/[^/\"]*" (toJson .Values.config) -1 | uniq }}
{{- $name := trimPrefix "/etc/authz-secrets/" $path }}
{{- if not (has $name $names) }}
- "the configuration uses a file in {{ $path }}/, but secrets has no entry named {{ $name }}: add secrets: [{name: {{ $name }}, secretName: the-secret}]"
{{- end }}
{{- end }}
{{- end -}}

{{/* The files that authz-service itself writes. Security events are delivered once, so all pods must share theirs. */}}
{{- define "authz-service.validateValues.state" -}}
{{- $replicas := int (ternary .Values.autoscaling.maxReplicas .Values.replicas .Values.autoscaling.enabled) }}
{{- $several := and (ne .Values.shape "sidecar") (gt $replicas 1) }}
{{- $shared := .Values.stateVolume.existingClaim }}
{{- range .Values.config.issuers }}
{{- with (.keys).snapshot_file }}
{{- if not (hasPrefix "/" .) }}
- "config.issuers: snapshot_file {{ . }} is relative to the configuration's folder, which is read-only: set it to /var/lib/authz-service/{{ base . }}"
{{- end }}
{{- end }}
{{- if .security_events }}
{{- $file := .security_events.snapshot_file | default "" }}
{{- if and $file (not (hasPrefix "/var/lib/authz-service/" $file)) }}
- "config.issuers: security_events.snapshot_file is {{ $file }}, which is not on the volume for such files: set it to /var/lib/authz-service/{{ base $file }}"
{{- else if and $several (not $file) }}
- "config.issuers: security_events has no snapshot_file, so each of {{ $replicas }} pods would get some of the events only: set it to /var/lib/authz-service/events.json, and stateVolume.existingClaim to a PersistentVolumeClaim with ReadWriteMany"
{{- else if and $several (not $shared) }}
- "config.issuers: security_events.snapshot_file is on a volume of each pod, so each of {{ $replicas }} pods would get some of the events only: set stateVolume.existingClaim to a PersistentVolumeClaim with ReadWriteMany, or run one pod (replicas: 1, without autoscaling)"
{{- end }}
{{- end }}
{{- end }}
{{- if and $shared (not (include "authz-service.usesStateFolder" .)) }}
- "stateVolume.existingClaim is {{ $shared }}, but the configuration uses no file in /var/lib/authz-service/: set a snapshot_file there, or remove it"
{{- end }}
{{- end -}}

{{- define "authz-service.validateValues.scaling" -}}
{{- if .Values.autoscaling.enabled }}
{{- if eq .Values.shape "sidecar" }}
- "autoscaling.enabled is not supported with shape sidecar, because the pods belong to the application: remove it, and scale the application"
{{- end }}
{{- if lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas) }}
- "autoscaling.maxReplicas {{ .Values.autoscaling.maxReplicas }} is less than minReplicas {{ .Values.autoscaling.minReplicas }}: raise it"
{{- end }}
{{- if not ((.Values.resources).requests).cpu }}
- "autoscaling.enabled requires resources.requests.cpu, because utilization is relative to it: set it, such as 100m"
{{- end }}
{{- end }}
{{- $replicas := ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled }}
{{- if and (ne .Values.shape "sidecar") .Values.podDisruptionBudget.enabled }}
{{- $minimum := .Values.podDisruptionBudget.minAvailable }}
{{- if kindIs "invalid" $minimum }}
{{- if has (include "authz-service.maxUnavailable" .) (list "0" "0%") }}
- "podDisruptionBudget.maxUnavailable is {{ .Values.podDisruptionBudget.maxUnavailable }}, which blocks draining every node: set it to 1"
{{- end }}
{{- else if not (kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable) }}
- "podDisruptionBudget.minAvailable and maxUnavailable are both set: keep one"
{{- else if or (eq (toString $minimum) "100%") (and (not (kindIs "string" $minimum)) (ge (int $minimum) (int $replicas))) }}
- "podDisruptionBudget.minAvailable is {{ $minimum }} of {{ $replicas }} pods, which blocks draining every node: set it to less, or maxUnavailable to 1 instead"
{{- end }}
{{- end }}
{{- if and (eq .Values.shape "service") .Values.podDisruptionBudget.enabled (lt (int $replicas) 2) }}
- "podDisruptionBudget.enabled has no effect with {{ $replicas }} replica, because the only pod may be evicted: set replicas (or autoscaling.minReplicas) to 2, or podDisruptionBudget.enabled to false"
{{- end }}
{{- end -}}

{{- define "authz-service.validateValues.shape" -}}
{{- if and (ne .Values.shape "service") .Values.sidecar.native (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) }}
- "sidecar.native requires Kubernetes 1.29, but this is {{ .Capabilities.KubeVersion.Version }}: set sidecar.native to false"
{{- end }}
{{- if and (eq .Values.shape "sidecar") (or (kindIs "slice" .Values.networkPolicy.clients) (kindIs "slice" .Values.networkPolicy.egressPorts)) }}
- "networkPolicy.clients or egressPorts is set, but with shape sidecar the chart renders no NetworkPolicy, so nothing would be restricted: remove it, and write the policy in the application's chart"
{{- end }}
{{- if and (eq .Values.shape "sidecar") (include "authz-service.hasNetworkPolicy" .) }}
- "networkPolicy.enabled is not supported with shape sidecar, because a policy for the application's pod would close the application's ports: remove it, and include authz-service.sidecar.metricsIngress in the policy of the application's chart"
{{- end }}
{{- if eq .Values.shape "sidecar" }}
{{- range $key := list "strategy" "revisionHistoryLimit" "deploymentAnnotations" "affinity" "dnsConfig" "dnsPolicy" "hostAliases" "extraContainers" "extraInitContainers" }}
{{- if get $.Values $key }}
- "{{ $key }} is set, but with shape sidecar the pod belongs to the application: remove it, and set it in the application's chart"
{{- end }}
{{- end }}
{{- end }}
{{- $names := list "authz-service" "envoy" "application" }}
{{- range concat (.Values.extraInitContainers | default list) (.Values.extraContainers | default list) }}
{{- if has .name $names }}
- "extraContainers or extraInitContainers has a container named {{ .name }}, but the pod has one already: rename it"
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- if and (eq ((.Values.strategy).type | default "") "Recreate") (.Values.strategy).rollingUpdate }}
- "strategy.type is Recreate, which has no rollingUpdate: remove strategy.rollingUpdate"
{{- end }}
{{- if and (eq .Values.dnsPolicy "None") (not (.Values.dnsConfig).nameservers) }}
- "dnsPolicy is None, which requires dnsConfig.nameservers: add them, or remove dnsPolicy"
{{- end }}
{{- if eq .Values.shape "gateway" }}
{{- if not .Values.gateway.application.image }}
- "gateway.application.image is missing, and shape gateway runs the application in its pod: set it, or choose shape service or sidecar"
{{- end }}
{{- $ports := list (int .Values.gateway.application.port) (int .Values.gateway.envoy.port) (int .Values.gateway.envoy.statsPort) (int (include "authz-service.adminPort" .)) }}
{{- if ne (len $ports) (len (uniq $ports)) }}
- "gateway.application.port, gateway.envoy.port, gateway.envoy.statsPort and the port of config.server.admin_address are {{ join ", " $ports }}: they share one pod, so each must be different"
{{- end }}
{{- if and .Values.gateway.envoy.clientCaSecret (not (include "authz-service.tlsSecret" .)) }}
- "gateway.envoy.clientCaSecret is set, but without tls no client can show a certificate: set tls.existingSecret, or tls.certificate.enabled with an issuerRef"
{{- end }}
{{- if and (eq ((.Values.config.mtls).certificate | default "peer") "xfcc") (not .Values.gateway.envoy.clientCaSecret) }}
- "config.mtls.certificate is xfcc, but Envoy cannot know which clients are proxies whose x-forwarded-client-cert it may keep: set gateway.envoy.clientCaSecret to the CA that signs the certificates of these proxies only, or set config.mtls.certificate to peer"
{{- else if and (include "authz-service.requiresBoundTokens" .) (not .Values.gateway.envoy.clientCaSecret) }}
- "config.rules has a rule with proof: mtls, but Envoy requests no certificate from clients, so every request would be denied: set gateway.envoy.clientCaSecret to a Secret whose ca.crt signs client certificates"
{{- end }}
{{- else if .Values.gateway.application.image }}
- "gateway.application.image is set, but shape is {{ .Values.shape }}: set shape to gateway, or remove it"
{{- end }}
{{- end -}}

{{/* The clients of authz-service (shape service), and egress. */}}
{{- define "authz-service.validateValues.clients" -}}
{{- $remedy := "list the proxies in networkPolicy.clients, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress}}}]; or require client certificates with config.server.tls.client_ca_file; or set allowAnyClient to true if something else limits the clients, such as a mesh's AuthorizationPolicy" }}
{{- if ne .Values.shape "service" }}
{{- if .Values.allowAnyClient }}
- "allowAnyClient is set, but shape is {{ .Values.shape }}; it applies only to shape service: remove it"
{{- end }}
{{- else if not (or .Values.allowAnyClient (include "authz-service.requiresClientCertificate" .)) }}
{{- if not (include "authz-service.hasNetworkPolicy" .) }}
- "networkPolicy.enabled is false, so every pod in the cluster could call authz-service and probe which tokens are valid: {{ $remedy }}"
{{- else if kindIs "invalid" .Values.networkPolicy.clients }}
- "networkPolicy.clients is missing, so every pod in the cluster could call authz-service and probe which tokens are valid: {{ $remedy }}"
{{- else if include "authz-service.allowsAllPeers" .Values.networkPolicy.clients }}
- "networkPolicy.clients allows all peers, so every pod in the cluster could call authz-service and probe which tokens are valid: {{ $remedy }}"
{{- end }}
{{- end }}
{{- if and .Values.networkPolicy.extraEgress (not (kindIs "slice" .Values.networkPolicy.egressPorts)) }}
- "networkPolicy.extraEgress has no effect without networkPolicy.egressPorts, because every port is already allowed: set egressPorts, such as [443], or remove extraEgress"
{{- end }}
{{- end -}}

{{- define "authz-service.validateValues.service" -}}
{{- if and (ne .Values.shape "sidecar") (or (has .Values.service.ipFamilyPolicy (list "PreferDualStack" "RequireDualStack")) (has "IPv6" (.Values.service.ipFamilies | default list))) }}
{{- if and (eq .Values.shape "service") (regexMatch "^[0-9.]+:" (include "authz-service.grpcAddress" .)) }}
- "service.ipFamilyPolicy or ipFamilies requires IPv6, but config.server.grpc_address is {{ include "authz-service.grpcAddress" . }}, which is IPv4 only: set it to [::]:{{ include "authz-service.grpcPort" . }}, which listens on both"
{{- end }}
{{- if and (eq .Values.shape "gateway") (ne .Values.gateway.envoy.address "::") }}
- "service.ipFamilyPolicy or ipFamilies requires IPv6, but gateway.envoy.address is {{ .Values.gateway.envoy.address }}, which is IPv4 only: set it to \"::\", which listens on both"
{{- end }}
{{- end }}
{{- if and (eq (.Values.service.ipFamilyPolicy | default "") "SingleStack") (gt (len (.Values.service.ipFamilies | default list)) 1) }}
- "service.ipFamilyPolicy is SingleStack, but service.ipFamilies has two families: keep one, or set PreferDualStack"
{{- end }}
{{- if and .Values.service.headless (or (ne .Values.shape "service") (ne .Values.service.type "ClusterIP") .Values.service.port) }}
- "service.headless requires shape service, type ClusterIP and the port of config.server.grpc_address, because clients connect directly to the pods: remove service.port and service.type, or headless"
{{- end }}
{{- end -}}

{{- define "authz-service.validateValues.monitoring" -}}
{{- with .Values.monitoring }}
{{- if and (or .podMonitor.enabled .serviceMonitor.enabled) (include "authz-service.hasNetworkPolicy" $) (not $.Values.networkPolicy.metrics) }}
- "monitoring.{{ ternary "podMonitor" "serviceMonitor" .podMonitor.enabled }}.enabled, but networkPolicy.metrics allows no peer: add Prometheus there, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]"
{{- end }}
{{- range $name, $monitor := dict "podMonitor" .podMonitor "serviceMonitor" .serviceMonitor }}
{{- if and $monitor.enabled $monitor.scrapeTimeout }}
{{- $one := "^[0-9.]+(ms|s|m|h)$" }}
{{- if and (regexMatch $one $monitor.scrapeTimeout) (regexMatch $one $monitor.interval) (gt (include "authz-service.seconds" $monitor.scrapeTimeout | int) (include "authz-service.seconds" $monitor.interval | int)) }}
- "monitoring.{{ $name }}.scrapeTimeout is {{ $monitor.scrapeTimeout }}, but interval is {{ $monitor.interval }}, and Prometheus rejects a timeout that is longer: lower it, or raise interval"
{{- end }}
{{- end }}
{{- end }}
{{- if and .podMonitor.enabled .serviceMonitor.enabled }}
- "monitoring.podMonitor and monitoring.serviceMonitor are both enabled, so Prometheus would count every sample twice: keep one"
{{- end }}
{{- if and .serviceMonitor.enabled (ne $.Values.shape "service") }}
- "monitoring.serviceMonitor is enabled, but with shape {{ $.Values.shape }} no Service has the metrics port: enable monitoring.podMonitor instead"
{{- end }}
{{- if and .prometheusRule.enabled (not ($.Files.Get "alerts/authz-service.yaml")) }}
- "monitoring.prometheusRule.enabled, but this copy of the chart has no alerts/authz-service.yaml: install the complete chart"
{{- end }}
{{- if and .dashboard.enabled (not ($.Files.Get "dashboards/authz-service.json")) }}
- "monitoring.dashboard.enabled, but this copy of the chart has no dashboards/authz-service.json: install the complete chart"
{{- end }}
{{- end }}
{{- if and .Values.test.url (ne .Values.shape "sidecar") }}
- "test.url is set, but shape is {{ .Values.shape }}, for which the chart derives the address: remove it"
{{- end }}
{{- end -}}
