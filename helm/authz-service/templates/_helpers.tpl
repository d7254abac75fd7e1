{{/*
Names, labels, and what the chart derives from values and configuration. Every template here takes the chart's own
context and changes nothing in it.
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

{{/* Labels of the `helm test` pod. They differ from selectorLabels, so that no Service or policy selects it. */}}
{{- define "authz-service.testSelectorLabels" -}}
app.kubernetes.io/name: {{ include "authz-service.name" . | trunc 58 | trimSuffix "-" }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of the pod that checks the configuration, which no Service or policy selects either. */}}
{{- define "authz-service.checkSelectorLabels" -}}
app.kubernetes.io/name: {{ include "authz-service.name" . | trunc 57 | trimSuffix "-" }}-check
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The label that selects an application's pod with the sidecar in it; its name labels are the application's. */}}
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

{{/* Addresses, ports and folders of the configuration. */}}

{{- define "authz-service.grpcAddress" -}}
{{- (.Values.config.server).grpc_address | default "127.0.0.1:9191" -}}
{{- end -}}

{{- define "authz-service.adminAddress" -}}
{{- (.Values.config.server).admin_address | default "127.0.0.1:9192" -}}
{{- end -}}

{{- define "authz-service.isUnix" -}}
{{- if hasPrefix "unix:" (include "authz-service.grpcAddress" .) }}true{{ end -}}
{{- end -}}

{{/* Whether only the pod itself can connect to an address. */}}
{{- define "authz-service.isLoopback" -}}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\]:)" . }}true{{ end -}}
{{- end -}}

{{- define "authz-service.port" -}}
{{- regexReplaceAll "^.*:" . "" -}}
{{- end -}}

{{- define "authz-service.grpcPort" -}}
{{- include "authz-service.port" (include "authz-service.grpcAddress" .) -}}
{{- end -}}

{{- define "authz-service.adminPort" -}}
{{- include "authz-service.port" (include "authz-service.adminAddress" .) -}}
{{- end -}}

{{- define "authz-service.socket" -}}
{{- trimPrefix "unix:" (include "authz-service.grpcAddress" .) -}}
{{- end -}}

{{- define "authz-service.servesTls" -}}
{{- if (.Values.config.server).tls }}true{{ end -}}
{{- end -}}

{{/* Whether authz-service serves the certificate; with shape gateway Envoy does. */}}
{{- define "authz-service.mountsCertificate" -}}
{{- if and (include "authz-service.tlsSecret" .) (ne .Values.shape "gateway") }}true{{ end -}}
{{- end -}}

{{/* Whether the configuration names a file in a folder. */}}
{{- define "authz-service.usesFolder" -}}
{{- if contains .folder (toJson .config) }}true{{ end -}}
{{- end -}}

{{- define "authz-service.usesStateFolder" -}}
{{- if .Values.existingConfigMap -}}
true
{{- else -}}
{{- include "authz-service.usesFolder" (dict "folder" "/var/lib/authz-service/" "config" .Values.config) -}}
{{- end -}}
{{- end -}}

{{/* The files for requests to the cluster's API server that the configuration uses, as a list in YAML: token, which the kubelet
     renews, and ca.crt. Empty if extraVolumeMounts has another volume in their folder, or around it. */}}
{{- define "authz-service.apiServerFiles" -}}
{{- $folder := "/var/run/secrets/api-server/" -}}
{{- $own := false -}}
{{- range .Values.extraVolumeMounts -}}
{{- $mounted := printf "%s/" (clean .mountPath) -}}
{{- $own = or $own (hasPrefix $folder $mounted) (hasPrefix $mounted $folder) -}}
{{- end -}}
{{- if not $own -}}
{{- range regexFindAll (printf "%s[^\"]*" $folder) (toJson .Values.config) -1 | uniq }}
- {{ trimPrefix $folder . | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A duration such as 250ms, 1.5s, 5m or 1h as whole seconds, rounded up. */}}
{{- define "authz-service.seconds" -}}
{{- $number := regexFind "^[0-9.]+" . | float64 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- mulf $number (get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) $unit) | ceil | int -}}
{{- end -}}

{{/* A memory quantity such as 256Mi, 1.5G or 268435456 as bytes. */}}
{{- define "authz-service.bytes" -}}
{{- $quantity := kindIs "string" . | ternary . (int64 . | toString) -}}
{{- $unit := regexFind "[A-Za-z]*$" $quantity -}}
{{- $units := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf (trimSuffix $unit $quantity | float64) (get $units $unit) | int64 -}}
{{- end -}}

{{- define "authz-service.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | float64 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- divf (mulf $number (get (dict "B" 1.0 "KiB" 1024.0 "MiB" 1048576.0 "GiB" 1073741824.0) $unit)) 1048576.0 | ceil | int64 -}}
{{- end -}}

{{/* MiB that the revocations by security events of all issuers take at most. */}}
{{- define "authz-service.eventMebibytes" -}}
{{- $entries := 0 -}}
{{- range .Values.config.issuers -}}
{{- if .security_events -}}
{{- $entries = add $entries (int64 (.security_events.max_entries | default 100000)) -}}
{{- end -}}
{{- end -}}
{{- divf $entries 1024.0 | ceil | int64 -}}
{{- end -}}

{{/* MiB of memory that the container needs with full caches: for each process, plus the supervisor with several workers. */}}
{{- define "authz-service.requiredMebibytes" -}}
{{- $workers := int ((.Values.config.server).workers | default 1) -}}
{{- $cache := include "authz-service.mebibytes" ((.Values.config.token_cache).max_bytes | default "32MiB") | int64 -}}
{{- $caches := 1 -}}
{{- range .Values.config.issuers -}}
{{- if .introspection -}}
{{- $caches = add1 $caches -}}
{{- end -}}
{{- end -}}
{{- $events := include "authz-service.eventMebibytes" . | int64 -}}
{{- add (mul $workers (add 112 (mul $cache $caches) $events)) (ternary 32 0 (gt $workers 1)) -}}
{{- end -}}

{{/* server.shutdown_delay. With shape service, proxies in other pods call a terminating pod until they learn of it. A plain
     sidecar gets SIGTERM together with the proxy in its pod, which calls it until it has drained. */}}
{{- define "authz-service.shutdownDelay" -}}
{{- $default := "0s" -}}
{{- if eq .Values.shape "service" -}}
{{- $default = "5s" -}}
{{- else if and (eq .Values.shape "sidecar") (not .Values.sidecar.native) -}}
{{- $default = "6s" -}}
{{- end -}}
{{- (.Values.config.server).shutdown_delay | default $default -}}
{{- end -}}

{{/* Seconds that a pod needs to stop. */}}
{{- define "authz-service.stopSeconds" -}}
{{- $drain := ternary (include "authz-service.drainSeconds" . | int) 0 (eq .Values.shape "gateway") -}}
{{- add $drain (include "authz-service.seconds" (include "authz-service.shutdownDelay" .)) (include "authz-service.seconds" ((.Values.config.server).shutdown_grace | default "10s")) -}}
{{- end -}}

{{- define "authz-service.terminationGracePeriodSeconds" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- max 30 (add 5 (include "authz-service.stopSeconds" .)) -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* The configuration as in the values, with the chart's one default. */}}
{{- define "authz-service.configuration" -}}
{{- $config := deepCopy .Values.config -}}
{{- $delay := include "authz-service.shutdownDelay" . -}}
{{- if ne $delay "0s" -}}
{{- $_ := set $config "server" (merge (dict "shutdown_delay" $delay) ($config.server | default dict)) -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}

{{/* The ConfigMap that the pods mount. */}}
{{- define "authz-service.configMapName" -}}
{{- .Values.existingConfigMap | default (include "authz-service.fullname" .) -}}
{{- end -}}

{{/* A page of the documentation: its address, or its path in a copy of the repository, whose address only a release sets. */}}
{{- define "authz-service.page" -}}
{{- if contains "OWNER/REPOSITORY" .chart.Home -}}
{{ .path }}
{{- else -}}
{{ printf "%s/blob/v%s/%s" .chart.Home .chart.AppVersion .path }}
{{- end -}}
{{- end -}}

{{- define "authz-service.configChecksum" -}}
{{- include "authz-service.configuration" . | sha256sum -}}
{{- end -}}

{{/* The pods' port for clients. */}}
{{- define "authz-service.podPort" -}}
{{- eq .Values.shape "gateway" | ternary (toString .Values.gateway.envoy.port) (include "authz-service.grpcPort" .) -}}
{{- end -}}

{{- define "authz-service.servicePort" -}}
{{- if .Values.service.port -}}
{{- .Values.service.port -}}
{{- else if eq .Values.shape "gateway" -}}
{{- ternary 443 80 (ne "" (include "authz-service.tlsSecret" .)) -}}
{{- else -}}
{{- include "authz-service.grpcPort" . -}}
{{- end -}}
{{- end -}}

{{/* The Deployment's spec.replicas, or nothing. With autoscaling it is the live number, because Helm would reset a number that
     only the previous manifest has to Kubernetes' default, 1. It is left out without a live Deployment (a first installation,
     `helm template`, Argo CD), and where Helm applies on the server and the number already belongs to another manager, such as
     the autoscaler: to leave it out then changes nothing, and to write it would be a conflict, such as in a rollback. */}}
{{- define "authz-service.replicas" -}}
{{- if not .Values.autoscaling.enabled -}}
{{- .Values.replicas -}}
{{- else -}}
{{- with lookup "apps/v1" "Deployment" .Release.Namespace (include "authz-service.fullname" .) -}}
{{- $applied := false -}}
{{- $owned := false -}}
{{- range .metadata.managedFields -}}
{{- $fields := get (.fieldsV1 | default dict) "f:spec" | default dict -}}
{{- /* Only Helm has a selector. Others may apply annotations, for example. */ -}}
{{- if and (eq .operation "Apply") (hasKey $fields "f:selector") -}}
{{- $applied = true -}}
{{- $owned = hasKey $fields "f:replicas" -}}
{{- end -}}
{{- end -}}
{{- if or $owned (not $applied) -}}
{{- min (int $.Values.autoscaling.maxReplicas) (max (int $.Values.autoscaling.minReplicas) (int .spec.replicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* podDisruptionBudget.maxUnavailable, which may be 0. */}}
{{- define "authz-service.maxUnavailable" -}}
{{- kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable | ternary 1 .Values.podDisruptionBudget.maxUnavailable -}}
{{- end -}}

{{/* How a PodMonitor or ServiceMonitor scrapes, beside port and path. */}}
{{- define "authz-service.scrape" -}}
interval: {{ .interval }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- range $key := list "relabelings" "metricRelabelings" }}
{{- with get $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* NetworkPolicy. */}}

{{/* Whether the chart renders a NetworkPolicy. */}}
{{- define "authz-service.hasNetworkPolicy" -}}
{{- if kindIs "bool" .Values.networkPolicy.enabled -}}
{{- if .Values.networkPolicy.enabled }}true{{ end -}}
{{- else if ne .Values.shape "sidecar" }}true{{ end -}}
{{- end -}}

{{/* Whether a rule matches paths with encoded slashes. */}}
{{- define "authz-service.matchesEncodedSlashes" -}}
{{- range .Values.config.rules }}{{ if (.match).encoded_slash }}true{{ end }}{{ end -}}
{{- end -}}

{{/* Whether a rule accepts only tokens that are bound to a client certificate. */}}
{{- define "authz-service.requiresBoundTokens" -}}
{{- range .Values.config.rules }}{{ if eq ((.require).proof | default "") "mtls" }}true{{ end }}{{ end -}}
{{- end -}}

{{/* Whether authz-service rejects clients without a certificate. */}}
{{- define "authz-service.requiresClientCertificate" -}}
{{- if ((.Values.config.server).tls).client_ca_file }}true{{ end -}}
{{- end -}}

{{/* Whether a list of peers allows every pod or every address. */}}
{{- define "authz-service.allowsAllPeers" -}}
{{- range . -}}
{{- $somePods := or (.podSelector).matchLabels (.podSelector).matchExpressions -}}
{{- $someNamespaces := or (.namespaceSelector).matchLabels (.namespaceSelector).matchExpressions -}}
{{- if and (kindIs "map" .namespaceSelector) (not $someNamespaces) (not $somePods) }}true{{ end -}}
{{- if has (.ipBlock).cidr (list "0.0.0.0/0" "::/0") }}true{{ end -}}
{{- end -}}
{{- end -}}

{{/* The NetworkPolicy ingress rule for the metrics port. Without peers there is no rule, because an empty `from` allows
     every source. */}}
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
