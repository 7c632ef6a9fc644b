package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Where a pod's token, the cluster's CA and the pod's namespace are.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// A client of the API in small: it lists what is at a path, watches it from there, and holds what there is. It asks with the
// pod's own token, as client-go would.
type client struct {
	// Where it lists and watches.
	place string

	lock  sync.Mutex
	held  map[string]string
	lists int
	// Since when the watch is open; zero while none is.
	since  time.Time
	wrongs []string
}

// A widget, a configmap, or a Status.
type object struct {
	Metadata struct{ Name, ResourceVersion string }
	Spec     struct{ Drawer string }
	Data     map[string]string
	Code     int
	Message  string
}

type list struct {
	Metadata struct{ ResourceVersion string }
	Items    []object
}

// A controller in the node's own network, which is told where the API is ($API).
func control() *client {
	return begun(os.Getenv("API") + "/apis/example.com/v1/widgets")
}

// A pod like any other: it finds the API by the environment that the kubelet has set, for the configmaps of its namespace.
// What it is asked at /configmaps it asks anew, by the API's name.
func inCluster() *client {
	maps := "/api/v1/namespaces/" + read("namespace") + "/configmaps"
	http.HandleFunc("/configmaps", func(w http.ResponseWriter, _ *http.Request) {
		found, age, err := ask("https://kubernetes.default.svc" + maps)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "LISTED=%s\nAGE=%s\n", shown(found.held()), age)
	})
	// What the Service says to a pod, each time by a connection of its own, so that kube-proxy chooses anew.
	fresh := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	http.HandleFunc("/service", func(w http.ResponseWriter, _ *http.Request) {
		answer, err := fresh.Get(os.Getenv("SERVICE"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		io.Copy(w, answer.Body)
	})
	server := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	return begun("https://" + server + maps)
}

func begun(place string) *client {
	c := &client{place: place}
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
func (c *client) follow() error {
	found, _, err := ask(c.place)
	if err != nil {
		return err
	}
	c.lock.Lock()
	c.held, c.lists = found.held(), c.lists+1
	c.lock.Unlock()
	for version := found.Metadata.ResourceVersion; ; time.Sleep(time.Second) {
		if version, err = c.watch(version); err != nil {
			return err
		}
	}
}

func (c *client) watch(version string) (string, error) {
	body, err := get(context.Background(), c.place+"?watch=true&allowWatchBookmarks=true&resourceVersion="+version)
	if err != nil {
		return version, err
	}
	defer body.Body.Close()
	c.open(time.Now())
	defer c.open(time.Time{})
	for events := json.NewDecoder(body.Body); ; {
		var event struct {
			Type   string
			Object object
		}
		if events.Decode(&event) != nil {
			return version, nil
		}
		if event.Type == "ERROR" {
			return version, fmt.Errorf("%d %s", event.Object.Code, event.Object.Message)
		}
		c.lock.Lock()
		switch event.Type {
		case "ADDED", "MODIFIED":
			c.held[event.Object.Metadata.Name] = event.Object.value()
		case "DELETED":
			delete(c.held, event.Object.Metadata.Name)
		}
		c.lock.Unlock()
		version = event.Object.Metadata.ResourceVersion
	}
}

func (c *client) open(since time.Time) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.since = since
}

func (c *client) say() string {
	c.lock.Lock()
	defer c.lock.Unlock()
	open := -1
	if !c.since.IsZero() {
		open = int(time.Since(c.since).Milliseconds())
	}
	return fmt.Sprintf("HOLDS=%s\nLISTS=%d\nWATCH_OPEN_MS=%d\nTOKEN_EXPIRES=%d\nWRONG=%s\n",
		shown(c.held), c.lists, open, expiry(read("token")), strings.Join(c.wrongs, "; "))
}

// What is listed there, and how old it is if the answer says so.
func ask(place string) (found list, age string, err error) {
	soon, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := get(soon, place)
	if err != nil {
		return found, "", err
	}
	defer answer.Body.Close()
	return found, answer.Header.Get("Age"), json.NewDecoder(answer.Body).Decode(&found)
}

func get(while context.Context, place string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(while, "GET", place, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+read("token"))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read("ca.crt")))
	// The token and the CA may be others the next time; so is the connection.
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err == nil && answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("status %d", answer.StatusCode)
	}
	return answer, err
}

func read(name string) string {
	bytes, _ := os.ReadFile(account + name)
	return string(bytes)
}

// When a token expires, in seconds since 1970.
func expiry(token string) int64 {
	var claims struct{ Exp int64 }
	if parts := strings.Split(token, "."); len(parts) == 3 {
		payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
		json.Unmarshal(payload, &claims)
	}
	return claims.Exp
}

func (l list) held() map[string]string {
	held := map[string]string{}
	for _, o := range l.Items {
		held[o.Metadata.Name] = o.value()
	}
	return held
}

func (o object) value() string {
	return o.Spec.Drawer + o.Data["colour"]
}

func shown(held map[string]string) string {
	var all []string
	for name, value := range held {
		all = append(all, strings.TrimSpace(name+" "+value))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
