{{/*
Shape gateway: the containers of Envoy and of the application, and Envoy's bootstrap.
*/}}

{{- define "authz-service.envoy.container" -}}
name: envoy
image: {{ .Values.gateway.envoy.image | quote }}
imagePullPolicy: {{ .Values.gateway.envoy.pullPolicy }}
command: [envoy]
args:
  - --config-path
  - /etc/envoy/envoy.yaml
  - --log-level
  - {{ .Values.gateway.envoy.logLevel }}
  - --concurrency
  - {{ .Values.gateway.envoy.concurrency | quote }}
  - --disable-hot-restart
ports:
  - name: http
    containerPort: {{ .Values.gateway.envoy.port }}
  - name: envoy-stats
    containerPort: {{ .Values.gateway.envoy.statsPort }}
readinessProbe:
  httpGet:
    path: /ready
    port: envoy-stats
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  tcpSocket:
    port: envoy-stats
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
  terminationGracePeriodSeconds: {{ include "authz-service.probeGracePeriodSeconds" . }}
{{- include "authz-service.serveWhileDraining" . }}
resources:
  {{- toYaml .Values.gateway.envoy.resources | nindent 2 }}
securityContext:
  {{- include "authz-service.containerSecurityContext" . | nindent 2 }}
volumeMounts:
  - name: envoy-config
    mountPath: /etc/envoy
    readOnly: true
  - name: authz-socket
    mountPath: {{ dir (include "authz-service.socket" .) }}
  {{- if include "authz-service.tlsSecret" . }}
  - name: authz-tls
    mountPath: /etc/authz-tls
    readOnly: true
  {{- end }}
  {{- if .Values.gateway.envoy.clientCaSecret }}
  - name: envoy-client-ca
    mountPath: /etc/envoy-client-ca
    readOnly: true
  {{- end }}
{{- end -}}

{{/* How a pod stops: Kubernetes starts the preStop hooks of all its containers at once. That of authz-service makes Envoy
     announce to its clients that it stops. Those of Envoy and of the application sleep, so that both keep serving for
     drainSeconds. Then they get SIGTERM, and authz-service after them. */}}

{{/* gateway.envoy.drainSeconds. A request that arrives until proxies know that the pod stops may take all of routeTimeout. */}}
{{- define "authz-service.drainSeconds" -}}
{{- if kindIs "invalid" .Values.gateway.envoy.drainSeconds -}}
{{- $timeout := include "authz-service.seconds" (.Values.gateway.envoy.routeTimeout | default "15s") | int -}}
{{- add 5 (default 30 $timeout) -}}
{{- else -}}
{{- int .Values.gateway.envoy.drainSeconds -}}
{{- end -}}
{{- end -}}

{{/* Whether the pod drains. Envoy's image has no program that sleeps, so Kubernetes itself must. */}}
{{- define "authz-service.drains" -}}
{{- if and (eq .Values.shape "gateway") (include "authz-service.drainSeconds" . | int) (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) }}true{{ end -}}
{{- end -}}

{{/* The hook of Envoy and of the application. */}}
{{- define "authz-service.serveWhileDraining" -}}
{{- if include "authz-service.drains" . }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ include "authz-service.drainSeconds" . }}
{{- end }}
{{- end -}}

{{/* The hooks of authz-service. A plain container sleeps for a second more than Envoy, which needs it until it has exited.
     Kubernetes runs preStop also before it restarts this container alone, after which Envoy must not drain any longer. */}}
{{- define "authz-service.drainHooks" -}}
{{- $script := list "python" "/etc/envoy/drain.py" -}}
{{- $socket := include "authz-service.envoy.adminSocket" . -}}
{{- $seconds := 0 -}}
{{- if not .Values.sidecar.native -}}
{{- $seconds = add1 (include "authz-service.drainSeconds" .) -}}
{{- end -}}
preStop:
  exec: {command: {{ concat $script (list "start" $socket (toString $seconds)) | toJson }}}
postStart:
  exec: {command: {{ concat $script (list "end" $socket) | toJson }}}
{{- end -}}

{{- define "authz-service.envoy.adminSocket" -}}
{{ dir (include "authz-service.socket" .) }}/envoy-admin.sock
{{- end -}}

{{/* A probe of the application as in the values. One through Envoy uses TLS where Envoy does; one that restarts the container
     does not wait for the drain. */}}
{{- define "authz-service.application.probe" -}}
{{- $probe := deepCopy .probe -}}
{{- if and ($probe.httpGet) (eq (toString $probe.httpGet.port) (toString .context.Values.gateway.envoy.port)) (include "authz-service.tlsSecret" .context) -}}
{{- $_ := set $probe "httpGet" (merge $probe.httpGet (dict "scheme" "HTTPS")) -}}
{{- end -}}
{{- if and .restarts (include "authz-service.drains" .context) -}}
{{- $probe = merge $probe (dict "terminationGracePeriodSeconds" (include "authz-service.probeGracePeriodSeconds" .context | int)) -}}
{{- end -}}
{{ toYaml $probe }}
{{- end -}}

{{- define "authz-service.application.container" -}}
{{- $application := .Values.gateway.application -}}
name: application
image: {{ $application.image | quote }}
imagePullPolicy: {{ $application.pullPolicy }}
{{- range $key := list "command" "args" "env" "envFrom" "volumeMounts" "resources" }}
{{- with get $application $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $key := list "startupProbe" "readinessProbe" "livenessProbe" }}
{{- with get $application $key }}
{{ $key }}:
  {{- include "authz-service.application.probe" (dict "context" $ "probe" . "restarts" (ne $key "readinessProbe")) | nindent 2 }}
{{- end }}
{{- end }}
{{- include "authz-service.serveWhileDraining" . }}
securityContext:
  {{- mergeOverwrite (include "authz-service.containerSecurityContext" . | fromYaml) ($application.securityContext | default dict) | toYaml | nindent 2 }}
{{- end -}}

{{/* Selects requests that authz-service did not decide: gRPC calls only, or all of them. */}}
{{- define "authz-service.envoy.failedCheck" -}}
{{- $failed := `response.code_details == "ext_authz_error"` -}}
{{- $grpc := `(request.headers["content-type"] == "application/grpc" || request.headers["content-type"].startsWith("application/grpc+"))` -}}
{name: envoy.access_loggers.extension_filters.cel, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter, expression: {{ ternary (printf "%s && %s" $failed $grpc) $failed (eq . "grpc") | squote }}}}
{{- end -}}

{{/* Envoy's bootstrap. A request passes limits and path normalization, then authz-service, then the application. */}}
{{- define "authz-service.envoy.bootstrap" -}}
{{- $envoy := .Values.gateway.envoy -}}
{{- $tls := include "authz-service.tlsSecret" . -}}
{{- $maxConnections := 20000 -}}
{{- $xfcc := eq ((.Values.config.mtls).certificate | default "peer") "xfcc" -}}
node: {id: {{ include "authz-service.fullname" . }}, cluster: {{ include "authz-service.fullname" . }}}
admin:
  address: {pipe: {path: {{ include "authz-service.envoy.adminSocket" . }}, mode: 384}}   # 0600: for Envoy, and for the preStop hook of authz-service
static_resources:
  listeners:
    - name: http
      address: {socket_address: {address: {{ $envoy.address | quote }}, {{ if eq $envoy.address "::" }}ipv4_compat: true, {{ end }}port_value: {{ $envoy.port }}}}
      per_connection_buffer_limit_bytes: 32768
      filter_chains:
        {{- if $tls }}
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                alpn_protocols: [h2, http/1.1]
                tls_certificate_sds_secret_configs:
                  - name: server
                    sds_config: {resource_api_version: V3, path_config_source: {path: /etc/envoy/certificate.yaml}}
                {{- if $envoy.clientCaSecret }}
                # A client may show a certificate. Tokens that are bound to one are accepted only with it.
                validation_context_sds_secret_config:
                  name: client-ca
                  sds_config: {resource_api_version: V3, path_config_source: {path: /etc/envoy/client-ca.yaml}}
                {{- end }}
          filters:
        {{- else }}
        - filters:
        {{- end }}
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: http
                use_remote_address: true
                xff_num_trusted_hops: {{ $envoy.trustedHops }}
                {{- if $xfcc }}
                # x-forwarded-client-cert is removed, except on connections with a certificate of the proxies' CA.
                forward_client_cert_details: FORWARD_ONLY
                {{- end }}
                # Envoy, authz-service and the application must read every path the same way.
                normalize_path: true
                merge_slashes: true
                path_with_escaped_slashes_action: {{ if include "authz-service.matchesEncodedSlashes" . }}KEEP_UNCHANGED{{ else }}REJECT_REQUEST{{ end }}
                common_http_protocol_options:
                  idle_timeout: 300s
                  # Many applications read x_auth_subject as x-auth-subject.
                  headers_with_underscores_action: REJECT_REQUEST
                # Headers that only authz-service may set. It also removes them, but with failureModeAllow a request can skip
                # it. And headers by which a client overrides the path or method in some frameworks.
                early_header_mutation_extensions:
                  - name: envoy.http.early_header_mutation.header_mutation
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
                      mutations:
                        {{- range $name, $_ := (.Values.config.upstream).headers | default (dict "x-auth-subject" "" "x-auth-issuer" "" "x-auth-client" "" "x-auth-scopes" "") }}
                        - {remove: {{ $name | quote }}}
                        {{- end }}
                        {{- range $envoy.removeHeaders }}
                        - {remove: {{ . | quote }}}
                        {{- end }}
                http2_protocol_options: {max_concurrent_streams: 100, initial_stream_window_size: 65536, initial_connection_window_size: 1048576}
                request_headers_timeout: 10s
                stream_idle_timeout: 300s
                server_header_transformation: PASS_THROUGH
                {{- with $envoy.upgrades }}
                upgrade_configs:
                  {{- range . }}
                  - {upgrade_type: {{ . }}}
                  {{- end }}
                {{- end }}
                {{- if $envoy.accessLog }}
                access_log:
                  - name: envoy.access_loggers.stdout
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
                      log_format:
                        json_format:
                          time: "%START_TIME%"
                          method: "%REQ(:METHOD)%"
                          host: "%REQ(:AUTHORITY)%"
                          path: "%PATH(NQ)%"   # without the query string, which may contain secrets
                          status: "%RESPONSE_CODE%"
                          details: "%RESPONSE_CODE_DETAILS%"
                          flags: "%RESPONSE_FLAGS%"
                          duration_ms: "%DURATION%"
                          request_id: "%REQ(X-REQUEST-ID)%"
                          decision: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision)%"
                          reason: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%"
                          rule: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:rule)%"
                          mode: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:mode)%"
                          decision_id: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%"
                          subject: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:subject)%"
                          client_id: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:client_id)%"
                          scopes: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:scopes)%"
                {{- end }}
                # The responses while authz-service does not decide. Denials, and the 503 of the application, remain as they are.
                local_reply_config:
                  mappers:
                    - filter: {extension_filter: {{ include "authz-service.envoy.failedCheck" "grpc" }}}
                      headers_to_add: &unavailable
                        - {header: {key: cache-control, value: no-store}}
                        - {header: {key: retry-after, value: "1"}}
                      body: {inline_string: Authorization is unavailable}   # the message beside grpc-status UNAVAILABLE
                    - filter: {extension_filter: {{ include "authz-service.envoy.failedCheck" "http" }}}
                      headers_to_add: *unavailable
                      body_format_override:
                        content_type: application/problem+json
                        text_format_source:
                          inline_string: '{"type": "urn:authz-service:denial:authorization_unavailable", "title": "Service Unavailable", "status": 503, "detail": "Authorization is unavailable"}'
                route_config:
                  virtual_hosts:
                    - name: application
                      domains: ["*"]
                      routes:
                        {{- range $envoy.policies }}
                        - match: {prefix: {{ .prefix | quote }}}
                          route: {cluster: application, timeout: {{ $envoy.routeTimeout }}}
                          typed_per_filter_config:
                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              check_settings: {context_extensions: {authz_policy: {{ .policy | quote }}}}
                        {{- end }}
                        - match: {prefix: /}
                          route: {cluster: application, timeout: {{ $envoy.routeTimeout }}}
                http_filters:
                  # Removes all request trailers, as Envoy does for HTTP/1.1. authz-service never sees them, and some
                  # frameworks read them as headers.
                  - name: envoy.filters.http.header_mutation
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
                      mutations:
                        request_trailers_mutations: [{remove_on_match: {key_matcher: {safe_regex: {regex: ".*"}}}}]
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      failure_mode_allow: {{ $envoy.failureModeAllow }}
                      status_on_error: {code: ServiceUnavailable}   # authz-service is unavailable; a 403 would look like a decision
                      encode_raw_headers: true
                      {{- if and $envoy.clientCaSecret (not $xfcc) }}
                      include_peer_certificate: true
                      {{- end }}
                      validate_mutations: true
                      grpc_service:
                        timeout: {{ $envoy.checkTimeout }}
                        envoy_grpc: {cluster_name: authz-service}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    # For the kubelet and Prometheus. Of the admin interface, it exposes the metrics only.
    - name: stats
      bypass_overload_manager: true   # an overloaded Envoy still serves its probes and statistics
      address: {socket_address: {address: {{ $envoy.address | quote }}, {{ if eq $envoy.address "::" }}ipv4_compat: true, {{ end }}port_value: {{ $envoy.statsPort }}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: stats
                common_http_protocol_options: {idle_timeout: 300s}
                request_headers_timeout: 10s
                route_config:
                  virtual_hosts:
                    - name: stats
                      domains: ["*"]
                      routes:
                        # Listeners start when Envoy is ready. Unlike /ready of the admin interface, this one does not fail while
                        # Envoy drains: if no other pod is ready, a Service sends requests to those that stop, if they are.
                        - {match: {path: /ready}, direct_response: {status: 200, body: {inline_string: "ready\n"}}}
                        - {match: {path: /stats/prometheus}, route: {cluster: admin}}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    # The same maximum as for downstream connections: with Envoy's default of 1024, requests would fail that the application
    # could serve.
    - name: authz-service
      connect_timeout: 0.25s
      circuit_breakers: {thresholds: [{max_connections: {{ $maxConnections }}, max_pending_requests: {{ $maxConnections }}, max_requests: {{ $maxConnections }}}]}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: authz-service
        endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: {{ include "authz-service.socket" . }}}}}}]}]
    - name: application
      connect_timeout: 1s
      circuit_breakers: {thresholds: [{max_connections: {{ $maxConnections }}, max_pending_requests: {{ $maxConnections }}, max_requests: {{ $maxConnections }}}]}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{ ternary "{http2_protocol_options: {}}" "{http_protocol_options: {}}" (eq .Values.gateway.application.protocol "http2") }}
      load_assignment:
        cluster_name: application
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{ .Values.gateway.application.port }}}}}}]}]
    - name: admin
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: {{ include "authz-service.envoy.adminSocket" . }}}}}}]}]
overload_manager:
  resource_monitors:
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: {{ $maxConnections }}
    {{- with (($envoy.resources).limits).memory }}
    # Requests that never end fill the memory. Without this limit the kernel kills the container, and every connection with it.
    - name: envoy.resource_monitors.fixed_heap
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
        max_heap_size_bytes: {{ div (mul 3 (include "authz-service.bytes" . | int64)) 4 }}
  refresh_interval: 0.25s
  actions:
    {{- range $action, $share := dict "shrink_heap" 0.85 "stop_accepting_requests" 0.9 "reject_incoming_connections" 0.95 }}
    - name: envoy.overload_actions.{{ $action }}
      triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: {{ $share }}}}]
    {{- end }}
    {{- end }}
{{- end -}}
