{{/* Names. */}}
{{- define "halley.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change, by which Services find pods: list root component. */}}
{{- define "halley.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "halley.labels" -}}
{{- $root := index . 0 -}}
{{ include "halley.selector" . }}
app.kubernetes.io/part-of: halley
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image of Halley's: list root name. */}}
{{- define "halley.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end -}}
{{- $root.Values.image.repository }}/{{ index . 1 }}:{{ default $root.Chart.AppVersion $root.Values.image.tag -}}
{{- end -}}

{{/* Where things are. */}}
{{- define "halley.natsURL" -}}
{{- if .Values.nats.url -}}
{{- .Values.nats.url -}}
{{- else if .Values.trial.enabled -}}
{{- ternary "nats" "tls" (eq .Values.internalTLS.mode "off") -}}://{{ include "halley.fullname" . }}-nats:4222
{{- else -}}
{{- fail "nats.url is needed (the addresses of your NATS), or trial.enabled" -}}
{{- end -}}
{{- end -}}

{{- define "halley.trialNATS" -}}
{{- if and .Values.trial.enabled (not .Values.nats.url) }}true{{ end -}}
{{- end -}}

{{- define "halley.trialPostgreSQL" -}}
{{- if and .Values.trial.enabled (not .Values.postgresql.existingSecret) }}true{{ end -}}
{{- end -}}

{{/* Where pushcore's internal port is, for gateways and senders. */}}
{{- define "halley.internal" -}}
dns:///{{ include "halley.fullname" . }}-pushcore-headless:9091
{{- end -}}

{{/* Names of Secrets. */}}
{{- define "halley.secret" -}}
{{- .Values.secrets.existingSecret | default (printf "%s-secrets" (include "halley.fullname" .)) -}}
{{- end -}}

{{- define "halley.natsSecret" -}}
{{- if and .Values.nats.url (not .Values.nats.existingSecret) -}}
{{- fail "nats.existingSecret is needed: a Secret with the passwords of the users pushcore, gateway and sender" -}}
{{- end -}}
{{- .Values.nats.existingSecret | default (printf "%s-nats" (include "halley.fullname" .)) -}}
{{- end -}}

{{- define "halley.databaseSecret" -}}
{{- if not (or .Values.postgresql.existingSecret .Values.trial.enabled) -}}
{{- fail "postgresql.existingSecret is needed: a Secret whose key url says where your PostgreSQL is; or trial.enabled" -}}
{{- end -}}
{{- .Values.postgresql.existingSecret | default (printf "%s-postgresql" (include "halley.fullname" .)) -}}
{{- end -}}

{{- define "halley.databaseCASecret" -}}
{{- if .Values.postgresql.caSecret -}}
{{- .Values.postgresql.caSecret -}}
{{- else if and (include "halley.trialPostgreSQL" .) (ne .Values.internalTLS.mode "off") -}}
{{- include "halley.fullname" . }}-postgresql-tls
{{- end -}}
{{- end -}}

{{/* The Secret with a component's certificate: list root component. */}}
{{- define "halley.tlsSecret" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $name := printf "%s-%s-tls" (include "halley.fullname" $root) $component -}}
{{- if eq $root.Values.internalTLS.mode "existing" -}}
{{- $name = get $root.Values.internalTLS.existingSecrets $component -}}
{{- if not $name -}}{{- fail (printf "internalTLS.existingSecrets.%s is needed" $component) -}}{{- end -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* A value of a Secret that is made once: what the cluster has, else new. dict root secret key new; the result is base64. */}}
{{- define "halley.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret | default dict -}}
{{- get ($found.data | default dict) .key | default (b64enc .new) -}}
{{- end -}}

{{/* A component's configuration file: list root ours theirs. */}}
{{- define "halley.config" -}}
{{- $root := index . 0 -}}
{{- $telemetry := dict "listen" ":9100" "log_level" $root.Values.telemetry.logLevel "log_format" $root.Values.telemetry.logFormat
    "trace_ratio" $root.Values.telemetry.traceRatio -}}
{{- toYaml (mergeOverwrite (dict "telemetry" $telemetry) (index . 1) (deepCopy (index . 2))) -}}
{{- end -}}

{{/* How a service is known to NATS: list root user. */}}
{{- define "halley.natsConfig" -}}
{{- $root := index . 0 -}}
url: {{ include "halley.natsURL" $root | quote }}
user: {{ index . 1 }}
password_file: /etc/halley/nats/password
{{- if include "halley.natsTrust" $root }}
ca: /etc/halley/nats-tls/ca.crt
{{- end }}
{{- if include "halley.natsClient" (list $root (index . 1)) }}
cert: /etc/halley/nats-client/tls.crt
key: /etc/halley/nats-client/tls.key
{{- end }}
{{- end -}}

{{/* The Secret whose ca.crt signs the NATS servers' certificates; empty: none. */}}
{{- define "halley.natsTrust" -}}
{{- if .Values.nats.tls.caSecret -}}
{{- .Values.nats.tls.caSecret -}}
{{- else if and (include "halley.trialNATS" .) (ne .Values.internalTLS.mode "off") -}}
{{- include "halley.fullname" . }}-nats-tls
{{- end -}}
{{- end -}}

{{/* The Secret with a service's certificate for NATS: list root component; empty: none. */}}
{{- define "halley.natsClient" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.nats.tls.clientSecret -}}
{{- $root.Values.nats.tls.clientSecret -}}
{{- else if and (include "halley.trialNATS" $root) (ne $root.Values.internalTLS.mode "off") -}}
{{- include "halley.tlsSecret" . -}}
{{- end -}}
{{- end -}}

{{/* How gateways and senders reach pushcore. */}}
{{- define "halley.pushcoreConfig" -}}
pushcore: {{ include "halley.internal" . }}
service_token_file: /etc/halley/secrets/service-token
{{- if ne .Values.internalTLS.mode "off" }}
pushcore_tls: true
pushcore_ca: /etc/halley/tls/ca.crt
pushcore_cert: /etc/halley/tls/tls.crt
pushcore_key: /etc/halley/tls/tls.key
{{- end }}
{{- end -}}

{{/* Until when a generated certificate holds, as seconds since 1970: the one in the cluster, unless it has to be renewed.
     An hour's rounding keeps it the same throughout one rendering. list root part. */}}
{{- define "halley.certUntil" -}}
{{- $root := index . 0 -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $old := lookup "v1" "Secret" $root.Release.Namespace (printf "%s-%s-tls" (include "halley.fullname" $root) (index . 1)) | default dict -}}
{{- $until := dig "metadata" "annotations" "halley.dev/valid-until" "0" $old | int64 -}}
{{- if gt $until (add $now (mul $root.Values.internalTLS.renewDays 86400)) -}}
{{- $until -}}
{{- else -}}
{{- mul (div (add $now (mul $root.Values.internalTLS.days 86400)) 3600) 3600 -}}
{{- end -}}
{{- end -}}

{{/* The gateways that there are, as long as Helm has a say in how many; nothing once an autoscaler has it alone. Left out at once when
     autoscaling is switched on, the field would become 1. Helm 3 compares with the last release instead, so it always says it. */}}
{{- define "halley.gatewayReplicas" -}}
{{- $deployment := lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-gateway" (include "halley.fullname" .)) | default dict -}}
{{- $ours := semverCompare "<4.0.0-0" .Capabilities.HelmVersion.Version -}}
{{- range dig "metadata" "managedFields" list $deployment -}}
{{- if eq .manager "helm" -}}
{{- $ours = or $ours (hasKey (dig "fieldsV1" "f:spec" dict .) "f:replicas") -}}
{{- end -}}
{{- end -}}
{{- if $ours -}}{{- dig "spec" "replicas" "" $deployment -}}{{- end -}}
{{- end -}}
