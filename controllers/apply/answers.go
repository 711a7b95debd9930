package apply

import (
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// answers remembers, of each object that was written or deleted, what the API
// server answered, until the cache has seen it or has no such object: what is on
// its way to the cache and no more. It starts empty, because a cache that has
// just been filled is newer than every write before.
type answers struct {
	mu    sync.Mutex
	known map[identity]answer
}

// answer is what is known of an object beside what the cache has: that it is at
// least as new as a version, and, where deleted is its UID, that it is on its way
// out.
type answer struct {
	version string
	deleted types.UID
}

// identity is an object by kind and name: that of an object which was made
// again is remembered in place of the former's.
type identity struct {
	kind reflect.Type
	key  client.ObjectKey
}

func identify(object client.Object) identity {
	return identity{reflect.TypeOf(object), client.ObjectKeyFromObject(object)}
}

// written remembers an object as the API server answered it.
func (a *answers) written(object client.Object) {
	a.remember(object, answer{version: object.GetResourceVersion()})
}

// deleted remembers that an object, as it was read, has been deleted.
func (a *answers) deleted(object client.Object) {
	a.remember(object, answer{version: object.GetResourceVersion(), deleted: object.GetUID()})
}

func (a *answers) remember(object client.Object, what answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = map[identity]answer{}
	}
	a.known[identify(object)] = what
}

func (a *answers) forget(id identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, id)
}

// upToDate reports whether an object of the cache is at least as new as the
// last answer about it, and forgets the answer if it is. Versions that cannot
// be compared are up to date only if they are equal.
func (a *answers) upToDate(cached client.Object) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := identify(cached)
	answered, ok := a.known[id]
	if !ok {
		return true
	}
	if answered.deleted != "" && answered.deleted == cached.GetUID() && cached.GetDeletionTimestamp().IsZero() {
		return false
	}
	have := cached.GetResourceVersion()
	order, err := resourceversion.CompareResourceVersion(have, answered.version)
	if (err != nil && have != answered.version) || order < 0 {
		return false
	}
	delete(a.known, id)
	return true
}
