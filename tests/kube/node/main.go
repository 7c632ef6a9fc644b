// node: what kube-apiserver asks of a kubelet for exec, attach, port-forward and logs, with the kubelet's own streaming
// code (k8s.io/kubelet/pkg/cri/streaming) and no containers: commands run on this machine, as children.
//
// Prints its port, and ends with its standard input.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	protocols "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
	streaming "k8s.io/kubelet/pkg/cri/streaming/remotecommand"
)

const (
	idle     = 4 * time.Hour
	creation = 30 * time.Second
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: node CERT KEY")
		os.Exit(64)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	panic(http.ServeTLS(listener, http.HandlerFunc(serve), os.Args[1], os.Args[2]))
}

// serve knows the kubelet's paths: /exec/NAMESPACE/POD/CONTAINER, /portForward/NAMESPACE/POD and so on.
func serve(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) < 3 {
		http.NotFound(w, r)
		return
	}
	pod, container := parts[2], ""
	if len(parts) > 3 {
		container = parts[3]
	}
	switch parts[0] {
	case "exec":
		options, err := streaming.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		streaming.ServeExec(w, r, machine{}, pod, "", container, r.URL.Query()["command"], options, idle, creation, protocols.SupportedStreamingProtocols)
	case "attach":
		options, err := streaming.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		streaming.ServeAttach(w, r, machine{}, pod, "", container, options, idle, creation, protocols.SupportedStreamingProtocols)
	case "portForward":
		options, err := portforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, r, machine{}, pod, "", options, idle, creation, portforward.SupportedProtocols)
	case "containerLogs":
		tick(w, r)
	default:
		http.NotFound(w, r)
	}
}

// machine does what containers do.
type machine struct{}

func (machine) ExecInContainer(ctx context.Context, _ string, _ types.UID, _ string, command []string, in io.Reader, out, err io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return run(ctx, command, in, out, err)
}

// AttachContainer: what runs in each container answers each line.
func (machine) AttachContainer(ctx context.Context, _ string, _ types.UID, _ string, in io.Reader, out, err io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	return run(ctx, []string{"sh", "-c", `while read -r line; do echo "heard $line"; done`}, in, out, err)
}

func run(ctx context.Context, command []string, in io.Reader, out, err io.Writer) error {
	child := exec.CommandContext(ctx, command[0], command[1:]...)
	child.Stdout, child.Stderr = out, err
	if in != nil {
		// Not as child.Stdin: its end would be waited for, and a terminal's never comes.
		to, broken := child.StdinPipe()
		if broken != nil {
			return broken
		}
		go func() {
			_, _ = io.Copy(to, in)
			_ = to.Close()
		}()
	}
	ended := child.Run()
	if exit, ok := ended.(*exec.ExitError); ok {
		return utilexec.CodeExitError{Err: exit, Code: exit.ExitCode()}
	}
	return ended
}

// PortForward: the pod's ports are this machine's.
func (machine) PortForward(_ context.Context, _ string, _ types.UID, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	to, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, stream)
		_ = to.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, to)
	return err
}

// tick writes a line a second for as long as somebody follows, as a container's log.
func tick(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	for n := 1; ; n++ {
		fmt.Fprintf(w, "line %d\n", n)
		w.(http.Flusher).Flush()
		if r.URL.Query().Get("follow") != "true" {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Second):
		}
	}
}
