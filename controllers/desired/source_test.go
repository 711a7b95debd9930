package desired

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// Credentials come from the user's Secret into the environment of who fetches, each data
// set's under a name of its own, and never into a specification.
func TestCredentialsOfSources(t *testing.T) {
	secret := func(name, key string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key}}
	}
	session := secret("keys", "AWS_SESSION_TOKEN")
	session.SecretKeyRef.Optional = new(true)
	for name, tc := range map[string]struct {
		place place
		as    string
		want  []corev1.EnvVar
	}{
		"http": {
			place{http: &v1alpha1.HTTPSource{TokenSecretRef: &v1alpha1.SecretKeyRef{Name: "site"}}}, "",
			[]corev1.EnvVar{{Name: "T2_SOURCE_TOKEN", ValueFrom: secret("site", "token")}},
		},
		"a hub": {
			place{hub: &v1alpha1.HuggingFaceSource{TokenSecretRef: &v1alpha1.SecretKeyRef{Name: "hub", Key: "k"}}}, "skill-3",
			[]corev1.EnvVar{{Name: "T2_SOURCE_TOKEN_SKILL_3", ValueFrom: secret("hub", "k")}},
		},
		"a bucket": {
			place{s3: &v1alpha1.S3Source{SecretRef: &v1alpha1.SecretRef{Name: "keys"}}}, "",
			[]corev1.EnvVar{
				{Name: "AWS_ACCESS_KEY_ID", ValueFrom: secret("keys", "AWS_ACCESS_KEY_ID")},
				{Name: "AWS_SECRET_ACCESS_KEY", ValueFrom: secret("keys", "AWS_SECRET_ACCESS_KEY")},
				{Name: "AWS_SESSION_TOKEN", ValueFrom: session},
			},
		},
		"a bucket of the platform's": {
			place{s3: &v1alpha1.S3Source{Ambient: new(true)}}, "train",
			[]corev1.EnvVar{{Name: "T2_SOURCE_S3_AMBIENT_TRAIN", Value: "true"}},
		},
		"a registry": {
			place{oci: &v1alpha1.OCISource{PullSecretRef: &v1alpha1.SecretRef{Name: "pull"}}}, "",
			[]corev1.EnvVar{{Name: "T2_SOURCE_DOCKERCONFIG", ValueFrom: secret("pull", ".dockerconfigjson")}},
		},
		"a public one": {place{oci: &v1alpha1.OCISource{}}, "", nil},
		"a claim":      {place{claim: &v1alpha1.ClaimSource{}}, "", nil},
	} {
		c := coreac.Container()
		tc.place.credentials(c, tc.as)
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var got corev1.Container
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, got.Env); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

// A training whose data sets are at services has their credentials, and is the same run
// whoever fetches.
func TestATrainingFetchesDataSetsWithCredentials(t *testing.T) {
	e := expertVector()
	sets := &e.Spec.Training.Dataset
	sets.Train = v1alpha1.Dataset{HuggingFace: &v1alpha1.HuggingFaceSource{Repo: "openai/gsm8k", Path: "train.jsonl"}, Format: v1alpha1.FormatGSM8K}
	sets.Validation = v1alpha1.Dataset{S3: &v1alpha1.S3Source{Bucket: "sums", Prefix: "v.jsonl"}, Format: v1alpha1.FormatGSM8K}
	public, err := Expert(e, baseModel(), nil, Settings{})
	if err != nil {
		t.Fatal(err)
	}
	sets.Train.HuggingFace.TokenSecretRef = &v1alpha1.SecretKeyRef{Name: "hub", Key: "token"}
	sets.Validation.S3.SecretRef = &v1alpha1.SecretRef{Name: "keys"}
	private, err := Expert(e, baseModel(), nil, Settings{})
	if err != nil {
		t.Fatal(err)
	}
	if public.ID != private.ID || public.JobName == private.JobName {
		t.Errorf("run %s by %s, and with credentials %s by %s", public.ID, public.JobName, private.ID, private.JobName)
	}
	if diff := cmp.Diff([]string{"hub", "keys"}, private.Secrets); diff != "" {
		t.Error(diff)
	}
	var spec contract.TrainSpec
	env := map[string]corev1.EnvVar{}
	b, err := json.Marshal(private.Job.Spec.Template.Spec.Containers[0].Env)
	if err != nil {
		t.Fatal(err)
	}
	var all []corev1.EnvVar
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		env[v.Name] = v
	}
	if err := json.Unmarshal([]byte(env[contract.EnvSpec].Value), &spec); err != nil {
		t.Fatal(err)
	}
	if spec.Train.HuggingFace.Repo != "openai/gsm8k" || spec.Train.Credentials != RoleTrain || spec.Validation.S3.Bucket != "sums" {
		t.Errorf("%+v", spec)
	}
	for _, name := range []string{"T2_SOURCE_TOKEN_TRAIN", "AWS_ACCESS_KEY_ID_VALIDATION"} {
		if env[name].ValueFrom == nil {
			t.Errorf("%s is not in the environment", name)
		}
	}
}
