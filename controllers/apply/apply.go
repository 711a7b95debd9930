// Package apply brings objects to the state that package desired computes, by
// server-side apply, and writes nothing where nothing would change.
//
// What it hands back is never older than the last thing that the API server
// answered: a cache that has not seen the operator's own write or deletion yet
// would let a caller conclude something about the object from before it.
package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
)

// lookAgain is when an object whose name is taken is looked at again: nothing
// tells when somebody else's object disappears.
const lookAgain = time.Minute

// collectAgain is the same for what Kubernetes' garbage collector is to delete.
const collectAgain = 5 * time.Second

// ReasonNameTaken says that an object which the operator needs has the name of
// one that somebody else made.
const ReasonNameTaken = "NameTaken"

// ReasonPreviousOwner says that an object which the operator needs is still that of an object
// of the same kind and name, which was deleted.
const ReasonPreviousOwner = "WaitingForPreviousOwner"

// Applier applies configurations for one operator. Its copies share what they
// remember of the API server's answers; New makes the first.
type Applier struct {
	// Client writes, and reads from the cache.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	// answers are the versions that the API server answered last.
	answers *answers
	// skipCache is for kinds that the cache must not hold.
	skipCache bool
}

// New returns an Applier.
func New(c client.Client, live client.Reader) Applier {
	return Applier{Client: c, Live: live, answers: &answers{}}
}

// Uncached returns an Applier that reads from the API server only.
func (a Applier) Uncached() Applier {
	a.skipCache = true
	return a
}

// Apply makes config true. live is an empty object of config's type; after the
// call it is the object as the API server has it now: what it answered to the
// write, or, where nothing had to be written, an object that is at least as new
// as the last answer. It must be owner's (see Owns): an object of that name which
// is not is left alone, and the error is that of NameTaken.
func (a Applier) Apply(ctx context.Context, owner client.Object, live client.Object, config runtime.ApplyConfiguration) error {
	object, found, err := a.find(ctx, owner, live, config)
	if err != nil {
		return err
	}
	want := object.Object
	hash, err := stamp(object)
	if err != nil {
		return err
	}
	if found {
		same, err := asApplied(live, want, hash)
		if err != nil || same {
			return err
		}
	}
	return a.write(ctx, object, live)
}

// Make is Apply for what is never changed once it is there, such as a Job: most
// of it cannot be, and others may own parts of it (a queue suspends it, a
// mutating policy wrote its image).
func (a Applier) Make(ctx context.Context, owner client.Object, live client.Object, config runtime.ApplyConfiguration) error {
	object, found, err := a.find(ctx, owner, live, config)
	if err != nil || found {
		return err
	}
	return a.write(ctx, object, live)
}

// find looks for the object that config describes, and refuses one that is not
// owner's.
func (a Applier) find(ctx context.Context, owner, live client.Object, config runtime.ApplyConfiguration) (object *unstructured.Unstructured, found bool, err error) {
	want, err := toMap(config)
	if err != nil {
		return nil, false, err
	}
	object = &unstructured.Unstructured{Object: want}
	found, err = a.Look(ctx, client.ObjectKeyFromObject(object), live)
	if err != nil {
		return nil, false, err
	}
	if found && !Owns(owner, live) {
		return nil, true, NameTaken(owner, object.GetKind(), live)
	}
	return object, found, nil
}

// write applies an object and puts the API server's answer into live.
func (a Applier) write(ctx context.Context, object *unstructured.Unstructured, live client.Object) error {
	if err := a.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object),
		client.FieldOwner(v1alpha1.FieldOwner), client.ForceOwnership); err != nil {
		return fmt.Errorf("applying %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	// The answer is in object now.
	empty(live)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, live); err != nil {
		return fmt.Errorf("reading the answer about %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	a.answers.written(live)
	return nil
}

// Delete deletes an object as it was read, and none that was made again under its
// name. From then on the object is read as one that is being deleted, or is gone.
func (a Applier) Delete(ctx context.Context, object client.Object, options ...client.DeleteOption) error {
	uid := object.GetUID()
	err := a.Client.Delete(ctx, object, append(options, client.Preconditions{UID: &uid})...)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting %s %s: %w", kindOf(object), object.GetName(), err)
	}
	a.answers.deleted(object)
	return nil
}

// Owns reports whether object is owner's: controlled by it, or marked with its
// UID where the garbage collector must not delete it with its owner
// (v1alpha1.AnnotationOwner).
func Owns(owner, object client.Object) bool {
	return metav1.IsControlledBy(object, owner) ||
		(len(object.GetOwnerReferences()) == 0 && object.GetAnnotations()[v1alpha1.AnnotationOwner] == string(owner.GetUID()))
}

// NameTaken is the error of an owner whose object has the name of one that is there and not
// its own. It stalls until that one is gone. One that its owner left behind when it was
// deleted and made anew is waited for: the garbage collector deletes it, at once as a rule.
// It may miss it where the API server had just begun when the owner was deleted, as it then
// watches no custom resources until it looks for kinds again, half a minute later.
func NameTaken(owner client.Object, kind string, object client.Object) error {
	name := object.GetName()
	if before := metav1.GetControllerOf(object); before != nil && before.Name == owner.GetName() && before.UID != owner.GetUID() &&
		before.APIVersion == v1alpha1.GroupVersion.String() && before.Kind == kindOf(owner) {
		return status.Wait(ReasonPreviousOwner, "%s %s is still that of a %s of this name that was deleted (uid %s); Kubernetes deletes it, too. If it stays, delete it",
			kind, name, before.Kind, before.UID).Again(collectAgain)
	}
	stalled := status.Stall(ReasonNameTaken,
		"%s %s is there and belongs to somebody else; delete or rename one of the two", kind, name)
	stalled.After = lookAgain
	return stalled
}

// kindOf is the kind of an object, which those that were read by type do not say.
func kindOf(object client.Object) string { return reflect.TypeOf(object).Elem().Name() }

// Look reads an object and reports whether it is there: from the cache, unless
// that has nothing (it knows only what carries the operator's labels) or
// something older than the API server's last answer; else from the server.
func (a Applier) Look(ctx context.Context, key client.ObjectKey, live client.Object) (bool, error) {
	behind := false
	if !a.skipCache {
		err := a.Client.Get(ctx, key, live)
		if err != nil && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("reading %T %s: %w", live, key, err)
		}
		if err == nil && a.answers.upToDate(live) {
			return true, nil
		}
		behind = err == nil
		empty(live)
	}
	err := a.Live.Get(ctx, key, live)
	if apierrors.IsNotFound(err) {
		if !behind {
			a.answers.forget(identity{reflect.TypeOf(live), key})
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading %T %s: %w", live, key, err)
	}
	return true, nil
}

// empty makes an object as if it had just been made: decoding into it leaves
// nothing behind of what it was.
func empty(live client.Object) {
	value := reflect.ValueOf(live).Elem()
	value.Set(reflect.Zero(value.Type()))
}

// stamp writes the hash of an object into its annotation v1alpha1.AnnotationApplied
// and returns it.
func stamp(object *unstructured.Unstructured) (string, error) {
	text, err := json.Marshal(object.Object)
	if err != nil {
		return "", fmt.Errorf("hashing %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	sum := sha256.Sum256(text)
	hash := hex.EncodeToString(sum[:])[:16]
	annotations := object.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[v1alpha1.AnnotationApplied] = hash
	object.SetAnnotations(annotations)
	return hash, nil
}

// asApplied reports whether live was applied from the same configuration and
// still has every field as it says.
func asApplied(live client.Object, want map[string]any, hash string) (bool, error) {
	if live.GetAnnotations()[v1alpha1.AnnotationApplied] != hash {
		return false, nil
	}
	have, err := toMap(live)
	if err != nil {
		return false, err
	}
	for key, value := range want {
		if key == "kind" || key == "apiVersion" { // A cache's objects have none.
			continue
		}
		if !Contains(have[key], value) {
			return false, nil
		}
	}
	return true, nil
}

// Contains reports whether have has everything that want has: maps may have
// more keys, lists of named maps more items; anything else must be equal.
func Contains(have, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return len(w) == 0 && have == nil
		}
		for key, value := range w {
			if !Contains(h[key], value) {
				return false
			}
		}
		return true
	case []any:
		h, ok := have.([]any)
		if !ok {
			return len(w) == 0 && have == nil
		}
		return containsList(h, w)
	default:
		return have == want
	}
}

func containsList(have, want []any) bool {
	for i, value := range want {
		if name, ok := nameOf(value); ok {
			if !containsNamed(have, name, value) {
				return false
			}
			continue
		}
		if i >= len(have) || !Contains(have[i], value) {
			return false
		}
	}
	return true
}

func containsNamed(have []any, name any, want any) bool {
	for _, item := range have {
		if n, ok := nameOf(item); ok && n == name && Contains(item, want) {
			return true
		}
	}
	return false
}

// nameOf is the key of an item of a Kubernetes list of maps, where it has one.
func nameOf(item any) (any, bool) {
	m, ok := item.(map[string]any)
	if !ok {
		return nil, false
	}
	name, ok := m["name"].(string)
	return name, ok
}

// toMap encodes an object as the generic JSON that the API server sees, with
// whole numbers as int64.
func toMap(object any) (map[string]any, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", object, err)
	}
	var m map[string]any
	if err := utiljson.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("decoding %T: %w", object, err)
	}
	return m, nil
}
