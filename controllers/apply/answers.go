package apply

import (
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// answers remembers, of each object that was written, the version that the API
// server answered, until the cache has seen it or the object is gone: what is on
// its way to the cache and no more. It starts empty, because a cache that has
// just been filled is newer than every write before.
type answers struct {
	mu       sync.Mutex
	versions map[identity]string
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

func (a *answers) remember(object client.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.versions == nil {
		a.versions = map[identity]string{}
	}
	a.versions[identify(object)] = object.GetResourceVersion()
}

func (a *answers) forget(id identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.versions, id)
}

// upToDate reports whether an object of the cache is at least as new as the
// last answer about it, and forgets the answer if it is. Versions that cannot
// be compared are up to date only if they are equal.
func (a *answers) upToDate(cached client.Object) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := identify(cached)
	answered, ok := a.versions[id]
	if !ok {
		return true
	}
	have := cached.GetResourceVersion()
	order, err := resourceversion.CompareResourceVersion(have, answered)
	if (err != nil && have != answered) || order < 0 {
		return false
	}
	delete(a.versions, id)
	return true
}
