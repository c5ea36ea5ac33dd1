{{/*
The operator's command line: what may be repeated or hold spaces. Kubernetes expands $(NAME) in it, so a $ is doubled.
*/}}
{{- define "llmos.operatorArgs" -}}
- run
{{- range .Values.images.pullSecrets }}
- {{ printf "--image-pull-secret=%s" . | quote }}
{{- end }}
{{- range $name, $value := .Values.fetch.env }}
- {{ printf "--fetch-env=%s=%s" $name $value | replace "$" "$$" | quote }}
{{- end }}
{{- range $class, $number := .Values.quota.untenanted }}
- {{ printf "--untenanted=%s=%d" $class (int $number) | quote }}
{{- end }}
{{- range .Values.isolation.dnsAddresses }}
- {{ printf "--dns-address=%s" . | quote }}
{{- end }}
{{- range .Values.isolation.internalRanges }}
- {{ printf "--internal-range=%s" . | quote }}
{{- end }}
{{- with .Values.operator.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* All other settings. Values are quoted: environment variables are strings. */}}
{{- define "llmos.operatorEnv" -}}
- name: LLMOS_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: LLMOS_LOG_LEVEL
  value: {{ .Values.operator.logLevel | quote }}
- name: LLMOS_WORKERS
  value: {{ .Values.operator.workers | quote }}
- name: LLMOS_RESYNC_S
  value: {{ .Values.operator.resyncSeconds | quote }}
- name: LLMOS_WORKER_IMAGE
  value: {{ include "llmos.image" (dict "root" . "image" .Values.images.worker) | quote }}
- name: LLMOS_WORKER_LITE_IMAGE
  value: {{ include "llmos.image" (dict "root" . "image" .Values.images.workerLite) | quote }}
- name: LLMOS_IMAGE_PULL_POLICY
  value: {{ .Values.images.pullPolicy | quote }}
- name: LLMOS_CA_BUNDLE_CONFIG_MAP
  value: {{ .Values.fetch.caBundleConfigMap | quote }}
- name: LLMOS_CHART_NAME
  value: {{ include "llmos.fullname" . | quote }}
- name: LLMOS_ADMISSION
  value: {{ .Values.quota.admission | quote }}
- name: LLMOS_KUEUE_QUEUE
  value: {{ .Values.quota.kueue.queueName | quote }}
- name: LLMOS_MIN_RUN_S
  value: {{ .Values.quota.minRunSeconds | quote }}
- name: LLMOS_PROBE_PORTS
  value: {{ .Values.isolation.probePorts | quote }}
- name: LLMOS_DRAIN_SETTLE_S
  value: {{ .Values.serving.drainSettleSeconds | quote }}
- name: LLMOS_START_TIMEOUT_S
  value: {{ .Values.serving.startTimeoutSeconds | quote }}
- name: LLMOS_UNSCHEDULABLE_AFTER_S
  value: {{ .Values.serving.unschedulableAfterSeconds | quote }}
- name: LLMOS_WITHDRAW_AFTER_S
  value: {{ .Values.serving.withdrawAfterSeconds | quote }}
- name: LLMOS_IMAGE_PULL_TIMEOUT_S
  value: {{ .Values.serving.imagePullTimeoutSeconds | quote }}
{{- end }}

{{/* The gateway's settings. HOSTNAME, the name of its pod, is there in every container. */}}
{{- define "llmos.gatewayEnv" -}}
- name: LLMOS_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: LLMOS_AUTH
  value: {{ .Values.gateway.auth | quote }}
- name: LLMOS_LOG_LEVEL
  value: {{ .Values.gateway.logLevel | quote }}
- name: LLMOS_ACCESS_LOG
  value: {{ .Values.gateway.accessLog | quote }}
- name: LLMOS_CACHE_SALT_SECRET_FILE
  value: /etc/llmos/cache-salt/secret
- name: LLMOS_MAX_BODY_MIB
  value: {{ .Values.gateway.maxBodyMiB | quote }}
- name: LLMOS_MAX_BODIES_MIB
  value: {{ .Values.gateway.maxBodiesMiB | quote }}
- name: LLMOS_REQUEST_TIMEOUT_S
  value: {{ .Values.gateway.requestTimeoutSeconds | quote }}
- name: LLMOS_SETTLE_S
  value: {{ .Values.gateway.settleSeconds | quote }}
- name: LLMOS_DRAIN_S
  value: {{ .Values.gateway.drainSeconds | quote }}
{{- if .Values.gateway.budgets.store.secretName }}
- name: LLMOS_BUDGET_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.gateway.budgets.store.secretName }}
      key: {{ .Values.gateway.budgets.store.secretKey }}
- name: LLMOS_BUDGET_AWAY_S
  value: {{ .Values.gateway.budgets.store.awaySeconds | quote }}
{{- else }}
- name: LLMOS_BUDGET_JOURNAL
  value: /var/lib/llmos/budgets.jsonl
{{- end }}
{{- if .Values.gateway.tls.secretName }}
- name: LLMOS_TLS_CERTIFICATE
  value: /etc/llmos/tls/tls.crt
- name: LLMOS_TLS_KEY
  value: /etc/llmos/tls/tls.key
{{- end }}
{{- end }}
