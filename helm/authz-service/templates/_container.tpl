{{/*
The authz-service container and its volumes, the same in every shape.
*/}}

{{/* The restricted Pod Security Standard, and a read-only root file system. */}}
{{- define "authz-service.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The pod's securityContext. Its group gives Envoy access to the socket (mode 0660), and both access to the certificate. */}}
{{- define "authz-service.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.user }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
fsGroup: {{ int . }}
{{- end }}
{{- /* Always, the default, would make the files of a persistent volume writable for the group at each start of a pod, and
       authz-service trusts no such file. */}}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "authz-service.container" -}}
name: authz-service
image: {{ include "authz-service.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [authz-service]
args: [serve, --config, /etc/authz-service/config.yaml]
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- if not (include "authz-service.isUnix" .) }}
  - name: grpc
    containerPort: {{ include "authz-service.grpcPort" . }}
  {{- end }}
  - name: authz-metrics
    containerPort: {{ include "authz-service.adminPort" . }}
{{- with .Values.probes.startup }}
startupProbe:
  exec:
    command: [authz-service, healthcheck, --config, /etc/authz-service/config.yaml]
  {{- toYaml . | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "authz-service.probeGracePeriodSeconds" $ }}
{{- end }}
{{- with .Values.probes.readiness }}
readinessProbe:
  {{- include "authz-service.readinessProbe" $ | nindent 2 }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.probes.liveness }}
livenessProbe:
  httpGet:
    path: /healthz
    port: authz-metrics
  {{- toYaml . | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "authz-service.probeGracePeriodSeconds" $ }}
{{- end }}
{{- with include "authz-service.lifecycle" . | fromYaml }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "authz-service.containerSecurityContext" . | nindent 2 }}
  {{- with .Values.user }}
  runAsUser: {{ int . }}
  runAsGroup: {{ int . }}
  {{- end }}
volumeMounts:
  {{- include "authz-service.volumeMounts" . | nindent 2 }}
{{- end -}}

{{/* How long a container may take to stop whose probe fails, instead of all the time of a pod that stops: it hangs, and
     preStop hooks, which wait for the drain, count towards this time. */}}
{{- define "authz-service.probeGracePeriodSeconds" -}}
5
{{- end -}}

{{/* The hooks in the values, and those of the chart that they do not have. */}}
{{- define "authz-service.lifecycle" -}}
{{- $hooks := deepCopy (.Values.lifecycle | default dict) -}}
{{- if include "authz-service.drains" . -}}
{{- range $name, $hook := include "authz-service.drainHooks" . | fromYaml -}}
{{- if not (hasKey $hooks $name) -}}
{{- $_ := set $hooks $name $hook -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toYaml $hooks }}
{{- end -}}

{{/* The kubelet's gRPC probe supports no unix sockets, no TLS and no loopback address. /readyz reports the same state. */}}
{{- define "authz-service.readinessProbe" -}}
{{- $address := include "authz-service.grpcAddress" . -}}
{{- if or (include "authz-service.isUnix" .) (include "authz-service.isLoopback" $address) (include "authz-service.servesTls" .) -}}
httpGet:
  path: /readyz
  port: authz-metrics
{{- else -}}
grpc:
  port: {{ include "authz-service.grpcPort" . }}
{{- end -}}
{{- end -}}

{{- define "authz-service.volumeMounts" -}}
- name: authz-config
  mountPath: /etc/authz-service
  readOnly: true
{{- if include "authz-service.isUnix" . }}
- name: authz-socket
  mountPath: {{ dir (include "authz-service.socket" .) }}
{{- end }}
{{- if include "authz-service.mountsCertificate" . }}
- name: authz-tls
  mountPath: /etc/authz-tls
  readOnly: true
{{- end }}
{{- if eq .Values.shape "gateway" }}
# As a subPath, it stays when a rollback to a chart without it removes it from the ConfigMap before the old pods stop.
- name: envoy-config
  mountPath: /etc/envoy/drain.py
  subPath: drain.py
  readOnly: true
{{- end }}
{{- range .Values.secrets }}
- name: authz-secret-{{ .name }}
  mountPath: /etc/authz-secrets/{{ .name }}
  readOnly: true
{{- end }}
{{- if include "authz-service.usesStateFolder" . }}
- name: authz-state
  mountPath: /var/lib/authz-service
{{- end }}
{{- if include "authz-service.apiServerFiles" . }}
- name: authz-api-server
  mountPath: /var/run/secrets/api-server
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "authz-service.volumes" -}}
- name: authz-config
  configMap:
    name: {{ include "authz-service.configMapName" . }}
{{- if include "authz-service.isUnix" . }}
- name: authz-socket
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- end }}
{{- with include "authz-service.tlsSecret" . }}
- name: authz-tls
  secret:
    secretName: {{ . }}
{{- end }}
{{- range .Values.secrets }}
- name: authz-secret-{{ .name }}
  secret:
    secretName: {{ .secretName }}
{{- end }}
{{- if include "authz-service.usesStateFolder" . }}
- name: authz-state
  {{- if .Values.stateVolume.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .Values.stateVolume.existingClaim }}
  {{- else if .Values.existingConfigMap }}
  emptyDir: {}
  {{- else }}
  emptyDir:
    sizeLimit: {{ add 16 (mul 4 (include "authz-service.eventMebibytes" .)) }}Mi
  {{- end }}
{{- end }}
{{- with include "authz-service.apiServerFiles" . | fromYamlArray }}
- name: authz-api-server
  projected:
    sources:
      {{- if has "token" . }}
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      {{- end }}
      {{- if has "ca.crt" . }}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
