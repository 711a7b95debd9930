package desired

import (
	"k8s.io/utils/ptr"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// place is where a model, an expert or a data set comes from; at most one is set.
type place struct {
	http  *v1alpha1.HTTPSource
	hub   *v1alpha1.HuggingFaceSource
	s3    *v1alpha1.S3Source
	oci   *v1alpha1.OCISource
	claim *v1alpha1.ClaimSource
}

func placeOfModel(s v1alpha1.ModelSource) place {
	return place{s.HTTP, s.HuggingFace, s.S3, s.OCI, s.PersistentVolumeClaim}
}

func placeOfExpert(s v1alpha1.ExpertSource) place {
	return place{s.HTTP, s.HuggingFace, s.S3, s.OCI, s.PersistentVolumeClaim}
}

func placeOfDataset(d v1alpha1.Dataset) place {
	return place{d.HTTP, d.HuggingFace, d.S3, d.OCI, d.PersistentVolumeClaim}
}

// source tells the runtime where it is; a claim is mounted at the given path.
func (p place) source(mount string) contract.Source {
	switch {
	case p.http != nil:
		return contract.Source{HTTP: &contract.HTTPSource{URL: p.http.URL}}
	case p.hub != nil:
		return contract.Source{HuggingFace: &contract.HubSource{
			Repo: p.hub.Repo, Revision: p.hub.Revision, Path: p.hub.Path, Endpoint: p.hub.Endpoint,
		}}
	case p.s3 != nil:
		return contract.Source{S3: &contract.S3Source{
			Endpoint: p.s3.Endpoint, Region: p.s3.Region, Bucket: p.s3.Bucket, Prefix: p.s3.Prefix,
		}}
	case p.oci != nil:
		return contract.Source{OCI: &contract.OCISource{Reference: p.oci.Reference, Insecure: ptr.Deref(p.oci.Insecure, false)}}
	case p.claim != nil:
		return contract.Source{Path: inClaim(mount, p.claim)}
	default:
		return contract.Source{}
	}
}

// secret is the name of the Secret with the place's credentials, empty where it needs none.
func (p place) secret() string {
	switch {
	case p.http != nil && p.http.TokenSecretRef != nil:
		return p.http.TokenSecretRef.Name
	case p.hub != nil && p.hub.TokenSecretRef != nil:
		return p.hub.TokenSecretRef.Name
	case p.s3 != nil && p.s3.SecretRef != nil:
		return p.s3.SecretRef.Name
	case p.oci != nil && p.oci.PullSecretRef != nil:
		return p.oci.PullSecretRef.Name
	default:
		return ""
	}
}

// dockerConfigKey is that of Secrets of type kubernetes.io/dockerconfigjson.
const dockerConfigKey = ".dockerconfigjson"

// credentials puts what the Secret has into the environment of a container that fetches,
// under names for these credentials (contract.CredentialsEnv). The operator never reads it.
func (p place) credentials(c *coreac.ContainerApplyConfiguration, credentials string) {
	if p.s3 != nil && ptr.Deref(p.s3.Ambient, false) {
		c.WithEnv(coreac.EnvVar().WithName(contract.CredentialsEnv(contract.EnvS3Ambient, credentials)).WithValue("true"))
	}
	name := p.secret()
	if name == "" {
		return
	}
	put := func(variable, key string, optional bool) {
		selector := coreac.SecretKeySelector().WithName(name).WithKey(key)
		if optional {
			selector.WithOptional(true)
		}
		c.WithEnv(coreac.EnvVar().WithName(contract.CredentialsEnv(variable, credentials)).
			WithValueFrom(coreac.EnvVarSource().WithSecretKeyRef(selector)))
	}
	switch {
	case p.s3 != nil:
		put(contract.EnvS3AccessKey, contract.EnvS3AccessKey, false)
		put(contract.EnvS3SecretKey, contract.EnvS3SecretKey, false)
		put(contract.EnvS3SessionToken, contract.EnvS3SessionToken, true)
	case p.oci != nil:
		put(contract.EnvDockerConfig, dockerConfigKey, false)
	case p.hub != nil:
		put(contract.EnvSourceToken, tokenKey(p.hub.TokenSecretRef), false)
	default:
		put(contract.EnvSourceToken, tokenKey(p.http.TokenSecretRef), false)
	}
}

// tokenKey is what the API's default says, too.
func tokenKey(ref *v1alpha1.SecretKeyRef) string {
	if ref.Key == "" {
		return "token"
	}
	return ref.Key
}
