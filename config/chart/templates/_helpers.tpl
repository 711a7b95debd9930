{{/* Prefix of all names. With a release named t2, names are those of config/default. */}}
{{- define "t2.prefix" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "t2.selector" -}}
app.kubernetes.io/name: transformersquared
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: manager
{{- end -}}

{{- define "t2.labels" -}}
app.kubernetes.io/name: transformersquared
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: transformersquared
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "t2.crdAnnotations" -}}
{{- if .Values.crds.keep -}}
helm.sh/resource-policy: keep
{{- end -}}
{{- end -}}

{{- define "t2.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (printf "%s-controller-manager" (include "t2.prefix" .)) .Values.serviceAccount.name -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Reference of an image: called with the chart's root and the image's name in values. */}}
{{- define "t2.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $image := index $images (index . 1) -}}
{{- $name := printf "%s/%s" (trimSuffix "/" $images.registry) $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (coalesce $image.tag $images.tag (index . 0).Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Not empty where metrics are served. */}}
{{- define "t2.metrics" -}}
{{- if and .Values.metrics.enabled (or (not .Values.namespaces) .Values.metrics.clusterRole) -}}true{{- end -}}
{{- end -}}

{{/*
An object of config/rbac, under the release's names: called with the chart's
root, the object, and the namespace that it goes to if it has one.
*/}}
{{- define "t2.rbacObject" -}}
{{- $root := index . 0 -}}
{{- $object := deepCopy (index . 1) -}}
{{- $prefix := include "t2.prefix" $root -}}
{{- $labels := merge (dict) (include "t2.labels" $root | fromYaml) (default (dict) $object.metadata.labels) -}}
{{- $_ := set $object.metadata "labels" $labels -}}
{{- $_ := set $object.metadata "name" (printf "%s-%s" $prefix $object.metadata.name) -}}
{{- if $object.metadata.namespace -}}
{{- $_ := set $object.metadata "namespace" (index . 2) -}}
{{- end -}}
{{- if $object.roleRef -}}
{{- $_ := set $object.roleRef "name" (printf "%s-%s" $prefix $object.roleRef.name) -}}
{{- end -}}
{{- range $object.subjects -}}
{{- $_ := set . "name" (include "t2.serviceAccount" $root) -}}
{{- $_ := set . "namespace" $root.Release.Namespace -}}
{{- end -}}
{{- toYaml $object -}}
{{- end -}}

{{/*
An object of another folder of config, under the release's names and in a
namespace: called with the chart's root, the object, the namespace and labels of
the values.
*/}}
{{- define "t2.copied" -}}
{{- $root := index . 0 -}}
{{- $object := deepCopy (index . 1) -}}
{{- $name := $object.metadata.name | trimPrefix "t2-" -}}
{{- $_ := set $object.metadata "name" (printf "%s-%s" (include "t2.prefix" $root) $name) -}}
{{- $_ := set $object.metadata "namespace" (index . 2) -}}
{{- $_ := set $object.metadata "labels" (merge (dict) (include "t2.labels" $root | fromYaml) (index . 3)) -}}
{{- toYaml $object -}}
{{- end -}}

{{/*
An object of config/network, called with the chart's root and its name: with the
namespaces of the operator and of Prometheus.
*/}}
{{- define "t2.networkPolicy" -}}
{{- $root := index . 0 -}}
{{- $is := "kubernetes.io/metadata.name: " -}}
{{- $root.Files.Get (printf "files/network/%s.yaml" (index . 1))
  | replace (print $is "t2-system") (print $is $root.Release.Namespace)
  | replace (print $is "monitoring") (print $is $root.Values.networkPolicies.monitoringNamespace) -}}
{{- end -}}
