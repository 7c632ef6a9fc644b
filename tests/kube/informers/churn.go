package main

import (
	"context"
	"fmt"
	"math/rand"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// As many names of a kind as are in use: few enough for the same one to be made and deleted over and over.
const names = 20

// How long it rests between two writes.
const pause = 20 * time.Millisecond

type kind struct {
	resource schema.GroupVersionResource
	kind     string
	// What an object of the kind has beside its metadata.
	body func(*rand.Rand) map[string]interface{}
}

var kinds = []kind{
	{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "ConfigMap", func(r *rand.Rand) map[string]interface{} {
		return map[string]interface{}{"data": map[string]interface{}{"a": fmt.Sprint(r.Int63())}}
	}},
	{widgets, "Widget", func(r *rand.Rand) map[string]interface{} {
		return map[string]interface{}{"spec": map[string]interface{}{"drawer": fmt.Sprint(r.Int63())}}
	}},
	// Bound from the start, to this node or to another. No kubelet runs them: they only are.
	{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "Pod", func(r *rand.Rand) map[string]interface{} {
		container := map[string]interface{}{"name": "c", "image": "none"}
		node := []string{"edge1", "edge2"}[r.Intn(2)]
		return map[string]interface{}{"spec": map[string]interface{}{
			"nodeName": node, "containers": []interface{}{container}, "terminationGracePeriodSeconds": int64(0),
		}}
	}},
}

func churn(ctx context.Context, config *rest.Config, r *rand.Rand) {
	client := dynamic.NewForConfigOrDie(config)
	told, writing, written := lines(), true, 0
	for {
		if !writing {
			line, more := <-told
			if !more {
				return
			}
			writing = line == "resume"
			continue
		}
		select {
		case line, more := <-told:
			if !more {
				return
			}
			if line == "pause" {
				writing = false
				fmt.Println("paused", written)
			}
		case <-time.After(pause):
			write(ctx, client, r)
			written++
		}
	}
}

// One write: half of them change what is there, the others make or delete.
func write(ctx context.Context, client dynamic.Interface, r *rand.Rand) {
	k := kinds[r.Intn(len(kinds))]
	to := client.Resource(k.resource).Namespace(namespace)
	name := fmt.Sprintf("o%d", r.Intn(names))
	color := []string{"blue", "red"}[r.Intn(2)]
	var err error
	switch r.Intn(4) {
	case 0, 1:
		change := fmt.Sprintf(`{"metadata":{"labels":{"color":%q},"annotations":{"at":"%d"}}}`, color, r.Int63())
		_, err = to.Patch(ctx, name, types.MergePatchType, []byte(change), metav1.PatchOptions{})
	case 2:
		object := k.body(r)
		object["apiVersion"], object["kind"] = k.resource.GroupVersion().String(), k.kind
		object["metadata"] = map[string]interface{}{"name": name, "labels": map[string]interface{}{"color": color}}
		_, err = to.Create(ctx, &unstructured.Unstructured{Object: object}, metav1.CreateOptions{})
	default:
		err = to.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
		fail(err.Error())
	}
}
