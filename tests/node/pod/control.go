package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Where a pod's token and the cluster's CA are.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// A controller in small: it lists widgets, watches them from there, and holds what there is. Asks $API with the pod's own
// token, as client-go would.
type controller struct {
	lock   sync.Mutex
	held   map[string]string
	lists  int
	wrongs []string
}

type widget struct {
	Metadata struct{ Name, ResourceVersion string }
	Spec     struct{ Drawer string }
	// Of a Status.
	Code    int
	Message string
}

func control() *controller {
	c := &controller{}
	go func() {
		for {
			if err := c.follow(); err != nil {
				c.lock.Lock()
				c.wrongs = append(c.wrongs, err.Error())
				c.lock.Unlock()
			}
			time.Sleep(time.Second)
		}
	}()
	return c
}

// Lists, and watches until something is wrong. A watch that ends cleanly is begun again where it was.
func (c *controller) follow() error {
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []widget
	}
	body, err := get("")
	if err != nil {
		return err
	}
	defer body.Body.Close()
	if err := json.NewDecoder(body.Body).Decode(&list); err != nil {
		return err
	}
	held := map[string]string{}
	for _, w := range list.Items {
		held[w.Metadata.Name] = w.Spec.Drawer
	}
	c.lock.Lock()
	c.held, c.lists = held, c.lists+1
	c.lock.Unlock()
	for version := list.Metadata.ResourceVersion; ; time.Sleep(time.Second) {
		if version, err = c.watch(version); err != nil {
			return err
		}
	}
}

func (c *controller) watch(version string) (string, error) {
	body, err := get("?watch=true&allowWatchBookmarks=true&resourceVersion=" + version)
	if err != nil {
		return version, err
	}
	defer body.Body.Close()
	for events := json.NewDecoder(body.Body); ; {
		var event struct {
			Type   string
			Object widget
		}
		if events.Decode(&event) != nil {
			return version, nil
		}
		c.lock.Lock()
		switch event.Type {
		case "ADDED", "MODIFIED":
			c.held[event.Object.Metadata.Name] = event.Object.Spec.Drawer
		case "DELETED":
			delete(c.held, event.Object.Metadata.Name)
		case "ERROR":
			c.lock.Unlock()
			return version, fmt.Errorf("%d %s", event.Object.Code, event.Object.Message)
		}
		c.lock.Unlock()
		version = event.Object.Metadata.ResourceVersion
	}
}

func get(query string) (*http.Response, error) {
	request, err := http.NewRequest("GET", os.Getenv("API")+"/apis/example.com/v1/widgets"+query, nil)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	answer, err := client.Do(request)
	if err == nil && answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("status %d", answer.StatusCode)
	}
	return answer, err
}

func (c *controller) say() string {
	c.lock.Lock()
	defer c.lock.Unlock()
	var held []string
	for name, drawer := range c.held {
		held = append(held, name+" "+drawer)
	}
	slices.Sort(held)
	return fmt.Sprintf("WIDGETS=%s\nLISTS=%d\nWRONG=%s\n", strings.Join(held, ", "), c.lists, strings.Join(c.wrongs, "; "))
}
