{{/*
What the chart derives from the configuration: ports, folders, seconds. The configuration itself is never changed.
*/}}

{{- define "authz-service.grpcAddress" -}}
{{- (.Values.config.server).grpc_address | default "127.0.0.1:9191" -}}
{{- end -}}

{{- define "authz-service.adminAddress" -}}
{{- (.Values.config.server).admin_address | default "127.0.0.1:9192" -}}
{{- end -}}

{{- define "authz-service.isUnix" -}}
{{- if hasPrefix "unix:" (include "authz-service.grpcAddress" .) }}true{{ end -}}
{{- end -}}

{{/* Whether an address is of the pod alone. */}}
{{- define "authz-service.isLoopback" -}}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\]:)" . }}true{{ end -}}
{{- end -}}

{{- define "authz-service.portOf" -}}
{{- regexReplaceAll "^.*:" . "" -}}
{{- end -}}

{{- define "authz-service.grpcPort" -}}
{{- include "authz-service.portOf" (include "authz-service.grpcAddress" .) -}}
{{- end -}}

{{- define "authz-service.adminPort" -}}
{{- include "authz-service.portOf" (include "authz-service.adminAddress" .) -}}
{{- end -}}

{{- define "authz-service.socket" -}}
{{- trimPrefix "unix:" (include "authz-service.grpcAddress" .) -}}
{{- end -}}

{{- define "authz-service.servesTls" -}}
{{- if (.Values.config.server).tls }}true{{ end -}}
{{- end -}}

{{/* Whether authz-service or Envoy needs the certificate. */}}
{{- define "authz-service.mountsTls" -}}
{{- if and (include "authz-service.tlsSecret" .) (ne .Values.shape "gateway") }}true{{ end -}}
{{- end -}}

{{/* Whether the configuration names a file in a folder. */}}
{{- define "authz-service.names" -}}
{{- if contains .folder (toJson .config) }}true{{ end -}}
{{- end -}}

{{- define "authz-service.keepsState" -}}
{{- include "authz-service.names" (dict "folder" "/var/lib/authz-service/" "config" .Values.config) -}}
{{- end -}}

{{/* A duration such as 250ms, 1.5s, 5m or 1h in whole seconds, rounded up. */}}
{{- define "authz-service.seconds" -}}
{{- $number := regexFind "^[0-9.]+" . | float64 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- mulf $number (get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) $unit) | ceil | int -}}
{{- end -}}

{{/* A quantity of memory such as 256Mi, 1.5G or 268435456 in bytes. */}}
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

{{/* MiB that the container needs with full caches: of each process, and of the supervisor where there are workers. */}}
{{- define "authz-service.memory" -}}
{{- $workers := int ((.Values.config.server).workers | default 1) -}}
{{- $cache := include "authz-service.mebibytes" ((.Values.config.token_cache).max_bytes | default "32MiB") | int64 -}}
{{- $caches := 1 -}}
{{- range .Values.config.issuers -}}
{{- if .introspection -}}
{{- $caches = add1 $caches -}}
{{- end -}}
{{- end -}}
{{- add (mul $workers (add 128 (mul $cache $caches))) (ternary 64 0 (gt $workers 1)) -}}
{{- end -}}

{{- define "authz-service.configuration" -}}
{{ toYaml .Values.config }}
{{- end -}}

{{- define "authz-service.configChecksum" -}}
{{- include "authz-service.configuration" . | sha256sum -}}
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
