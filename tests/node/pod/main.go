// pod: what the node's containers run, one static binary for all of them: the echo server, an init container's errand, two
// clients of the API (a controller that watches custom resources, and a pod that finds the API as pods do), and the pause
// container's wait.
package main

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// What every container of lite-demo must find in its volumes.
const volumes = "/etc/lite-demo"

func main() {
	errand := "echo"
	if len(os.Args) > 1 {
		errand = os.Args[1]
	}
	switch errand {
	case "pause":
		pause()
	case "fetch":
		fetch()
	case "echo":
		echo(func() string { return "" })
	case "control":
		echo(control().say)
	case "client":
		echo(inCluster().say)
	default:
		fmt.Fprintln(os.Stderr, "usage: pod [echo|fetch|control|client|pause]")
		os.Exit(64)
	}
}

// Tells who it is, what is in its volumes, which start of the process it is, and what more it knows.
func echo(more func() string) {
	instance := rand.Text()[:8]
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"NODE_NAME", "POD_NAME", "POD_NAMESPACE", "POD_IP"} {
			fmt.Fprintf(w, "%s=%s\n", name, os.Getenv(name))
		}
		fmt.Fprintf(w, "INSTANCE=%s\n", instance)
		for _, file := range []string{"configmap/colour", "secret/word", "fetched/colour"} {
			fmt.Fprintf(w, "%s=%s\n", file, text(file))
		}
		fmt.Fprintf(w, "token=%d bytes\n%s", len(text("token/token")), more())
	})
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	// Ends at once, as PID 1 too: Go's default does not act on SIGTERM there.
	go func() {
		wait(syscall.SIGTERM, syscall.SIGINT)
		os.Exit(0)
	}()
	fmt.Println("echo", instance, "listens on", port)
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":"+port, nil))
	os.Exit(1)
}

// The init container: nothing of the pod starts before it has found the configmap.
func fetch() {
	if err := os.WriteFile(filepath.Join(volumes, "fetched/colour"), []byte(text("configmap/colour")), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func text(file string) string {
	bytes, _ := os.ReadFile(filepath.Join(volumes, file))
	return string(bytes)
}

// Holds a pod's namespaces, and buries its dead.
func pause() {
	go func() {
		children := make(chan os.Signal, 8)
		signal.Notify(children, syscall.SIGCHLD)
		for range children {
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}()
	wait(syscall.SIGTERM, syscall.SIGINT)
}

func wait(signals ...os.Signal) {
	came := make(chan os.Signal, 1)
	signal.Notify(came, signals...)
	<-came
}
