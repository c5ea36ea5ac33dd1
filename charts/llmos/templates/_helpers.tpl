{{/* The name of everything that this release creates. A Service's name has 63 characters, with -operator-metrics. */}}
{{- define "llmos.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- end }}

{{- define "llmos.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "llmos.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* What never changes during the life of a release: a Deployment's selector is immutable. */}}
{{- define "llmos.selectorLabels" -}}
app.kubernetes.io/name: llmos
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "llmos.labels" -}}
{{ include "llmos.selectorLabels" . }}
app.kubernetes.io/part-of: llmos
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llmos.gateway.selectorLabels" -}}
app.kubernetes.io/name: llmos
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "llmos.gateway.labels" -}}
{{ merge (include "llmos.gateway.selectorLabels" . | fromYaml) (include "llmos.labels" . | fromYaml) | toYaml }}
{{- end }}

{{- define "llmos.gateway.serviceAccountName" -}}
{{- if .Values.gateway.serviceAccount.create -}}
{{- default (printf "%s-gateway" (include "llmos.fullname" .)) .Values.gateway.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.gateway.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* The Secret with the bytes that keep cached prompts of tenants apart. */}}
{{- define "llmos.gateway.cacheSaltSecretName" -}}
{{- default (printf "%s-gateway-cache-salt" (include "llmos.fullname" .)) .Values.gateway.cacheSalt.secretName -}}
{{- end }}

{{/* A quantity of memory in MiB, rounded down. */}}
{{- define "llmos.mebibytes" -}}
{{- $text := . -}}
{{- if not (kindIs "string" .) -}}{{- $text = int64 . | toString -}}{{- end -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- $factor := get $units (trimPrefix $number $text) | default 1.0 -}}
{{- divf (mulf (float64 $number) $factor) 1048576.0 | floor | int64 -}}
{{- end }}

{{/*
Refuse a limit of memory that the bodies of requests can exceed: the gateway would be killed with all its requests. What
it needs is what `llmos_gateway.runtime.memory` says.
*/}}
{{- define "llmos.gateway.checkMemory" -}}
{{- with (.Values.gateway.resources.limits).memory -}}
{{- $body := int64 $.Values.gateway.maxBodyMiB -}}
{{- $bodies := max (int64 $.Values.gateway.maxBodiesMiB) $body -}}
{{- $needed := add 256 (mul 2 (add $bodies $body)) -}}
{{- if lt (include "llmos.mebibytes" . | int64) $needed -}}
{{- fail (printf "gateway.resources.limits.memory is %v, but the gateway needs %dMi for the bodies of requests that it may hold: raise the limit, or lower gateway.maxBodiesMiB (%d) or gateway.maxBodyMiB (%d)." . $needed $bodies $body) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The reference of an image: (dict "root" $ "image" .Values.images.operator). */}}
{{- define "llmos.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.images.registry -}}
{{- $repository = printf "%s/%s" . $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end }}

{{/*
Spread over nodes where that is possible; a cluster of one node still gets its standby:
(dict "given" .Values.operator.topologySpreadConstraints "labels" (include "llmos.selectorLabels" .)).
*/}}
{{- define "llmos.topologySpreadConstraints" -}}
{{- with .given -}}
{{ toYaml . }}
{{- else -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- .labels | nindent 6 }}
{{- end -}}
{{- end }}
