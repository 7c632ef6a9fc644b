package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

var widgets = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

// What is watched: a kind with a field selector, one whole in its namespace, one by its labels, a custom one.
type view struct {
	name   string
	object runtime.Object
	of     metav1.ListOptions
	list   func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch  func(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
}

// One view's informer, and what happened to it.
type informer struct {
	name string
	cache.SharedIndexInformer

	mutex sync.Mutex
	// How often it listed, began a watch with a list, watched, was told that it is too late, and met another error.
	lists, initials, watches, expired, errors int
	// The newest version seen of each object, by uid, and how often an older one came after it.
	newest    map[string]uint64
	backwards int
}

type informers []*informer

func views(config *rest.Config) []view {
	core := kubernetes.NewForConfigOrDie(config).CoreV1()
	// Custom resources have no protobuf.
	plain := rest.CopyConfig(config)
	plain.ContentType, plain.AcceptContentTypes = "", ""
	custom := dynamic.NewForConfigOrDie(plain).Resource(widgets).Namespace(namespace)
	pods, maps := core.Pods(""), core.ConfigMaps(namespace)
	listMaps := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) }
	return []view{
		{"pods", &corev1.Pod{}, metav1.ListOptions{FieldSelector: "spec.nodeName=edge1"},
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return pods.List(ctx, o) }, pods.Watch},
		{"configmaps", &corev1.ConfigMap{}, metav1.ListOptions{}, listMaps, maps.Watch},
		{"blue", &corev1.ConfigMap{}, metav1.ListOptions{LabelSelector: "color=blue"}, listMaps, maps.Watch},
		{"widgets", &unstructured.Unstructured{}, metav1.ListOptions{},
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return custom.List(ctx, o) }, custom.Watch},
	}
}

func start(ctx context.Context, config *rest.Config) informers {
	var all informers
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counting{next, &all} })
	for _, v := range views(config) {
		v := v
		selected := func(o metav1.ListOptions) metav1.ListOptions {
			o.FieldSelector, o.LabelSelector = v.of.FieldSelector, v.of.LabelSelector
			return o
		}
		from := &cache.ListWatch{
			ListFunc:  func(o metav1.ListOptions) (runtime.Object, error) { return v.list(ctx, selected(o)) },
			WatchFunc: func(o metav1.ListOptions) (apiwatch.Interface, error) { return v.watch(ctx, selected(o)) },
		}
		own := &informer{
			name: v.name, newest: map[string]uint64{},
			SharedIndexInformer: cache.NewSharedIndexInformer(from, v.object, 0, cache.Indexers{}),
		}
		own.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    own.saw,
			UpdateFunc: func(_, now interface{}) { own.saw(now) },
		})
		must(own.SetWatchErrorHandler(own.met))
		all = append(all, own)
	}
	for _, own := range all {
		go own.Run(ctx.Done())
	}
	return all
}

func (all informers) synced() bool {
	for _, own := range all {
		if !own.HasSynced() {
			return false
		}
	}
	return true
}

// A line an object, and one with the counts of each informer.
func (all informers) dump() {
	for _, own := range all {
		var held []string
		for _, object := range own.GetStore().List() {
			o, err := meta.Accessor(object)
			must(err)
			held = append(held, fmt.Sprintf("object %s %s/%s %s %s", own.name, o.GetNamespace(), o.GetName(), o.GetUID(), o.GetResourceVersion()))
		}
		sort.Strings(held)
		for _, line := range held {
			fmt.Println(line)
		}
		own.mutex.Lock()
		fmt.Println("counts", own.name, own.lists, own.initials, own.watches, own.expired, own.errors, own.backwards)
		own.mutex.Unlock()
	}
	fmt.Println("end")
}

func (own *informer) saw(object interface{}) {
	o, err := meta.Accessor(object)
	must(err)
	version, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	must(err)
	own.mutex.Lock()
	defer own.mutex.Unlock()
	uid := string(o.GetUID())
	if version < own.newest[uid] {
		own.backwards++
		fmt.Fprintf(os.Stderr, "%s %s at %d after %d\n", own.name, o.GetName(), version, own.newest[uid])
	}
	own.newest[uid] = version
}

func (own *informer) met(_ *cache.Reflector, err error) {
	own.mutex.Lock()
	defer own.mutex.Unlock()
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		own.expired++
	} else {
		own.errors++
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", own.name, err)
}

// Counts what is answered.
type counting struct {
	next http.RoundTripper
	all  *informers
}

func (c counting) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(request)
	if err != nil {
		return response, err
	}
	query := request.URL.Query()
	for _, own := range *c.all {
		if own.name != asked(request) {
			continue
		}
		own.mutex.Lock()
		switch {
		case query.Get("continue") != "":
		case query.Get("watch") == "":
			own.lists++
		case query.Get("sendInitialEvents") == "true":
			own.initials++
		default:
			own.watches++
		}
		own.mutex.Unlock()
	}
	return response, err
}

// The view that a request is for.
func asked(request *http.Request) string {
	path := request.URL.Path
	resource := path[strings.LastIndex(path, "/")+1:]
	if request.URL.Query().Get("labelSelector") != "" {
		return "blue"
	}
	return resource
}
