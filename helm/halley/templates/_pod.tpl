{{/* What every pod has: list root component values. */}}
{{- define "halley.pod" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
serviceAccountName: {{ include "halley.fullname" $root }}-{{ index . 1 }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Pods of a component over zones and nodes, as far as there are some: list root component values. */}}
{{- define "halley.spread" -}}
{{- $selector := include "halley.selector" (list (index . 0) (index . 1)) -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- $selector | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
affinity:
  {{- with (index . 2).affinity }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- $selector | nindent 14 }}
  {{- end }}
{{- end -}}

{{- define "halley.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Slow starts are the startup probe's; readiness takes from balancers, liveness restarts what hangs. */}}
{{- define "halley.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* Environment of a service: list root resources. Go collects harder before the container's memory ends. */}}
{{- define "halley.env" -}}
{{- $root := index . 0 }}
{{- $memory := dig "limits" "memory" "" (index . 1) | toString }}
{{- if regexMatch "^[0-9]+[MG]i$" $memory }}
- name: GOMEMLIMIT
  value: {{ div (mul (regexFind "^[0-9]+" $memory | int64) (ternary 1024 1 (hasSuffix "Gi" $memory)) 9) 10 }}MiB
{{- end }}
{{- with $root.Values.telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Files of a service: list root component NATS-user secrets (as items). */}}
{{- define "halley.volumes" -}}
{{- $root := index . 0 -}}
{{- $user := index . 2 -}}
- name: config
  configMap: {name: {{ include "halley.fullname" $root }}-{{ index . 1 }}}
- name: secrets
  secret:
    secretName: {{ include "halley.secret" $root }}
    defaultMode: 0440
    items:
      {{- range index . 3 }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
- name: nats
  secret:
    secretName: {{ include "halley.natsSecret" $root }}
    defaultMode: 0440
    items:
      - {key: {{ $user }}, path: password}
{{- with include "halley.natsTrust" $root }}
- name: nats-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- with include "halley.natsClient" (list $root $user) }}
- name: nats-client
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- if ne $root.Values.internalTLS.mode "off" }}
- name: tls
  secret:
    secretName: {{ include "halley.tlsSecret" (list $root $user) }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* Where they stand: list root NATS-user. */}}
{{- define "halley.mounts" -}}
{{- $root := index . 0 -}}
- {name: config, mountPath: /etc/halley/config, readOnly: true}
- {name: secrets, mountPath: /etc/halley/secrets, readOnly: true}
- {name: nats, mountPath: /etc/halley/nats, readOnly: true}
{{- if include "halley.natsTrust" $root }}
- {name: nats-tls, mountPath: /etc/halley/nats-tls, readOnly: true}
{{- end }}
{{- if include "halley.natsClient" . }}
- {name: nats-client, mountPath: /etc/halley/nats-client, readOnly: true}
{{- end }}
{{- if ne $root.Values.internalTLS.mode "off" }}
- {name: tls, mountPath: /etc/halley/tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* Where PostgreSQL is, and who signs its certificate. */}}
{{- define "halley.databaseVolumes" -}}
- name: database
  secret:
    secretName: {{ include "halley.databaseSecret" . }}
    defaultMode: 0440
    items:
      - {key: url, path: url}
{{- with include "halley.databaseCASecret" . }}
- name: database-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- end -}}
