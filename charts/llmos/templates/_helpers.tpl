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
