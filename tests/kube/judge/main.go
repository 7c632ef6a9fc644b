// Go's own HTTP server, which is kube-apiserver's, with a handler that reads the whole request and says what it was asked.
// The judge of tests/support/abuse.rs: prints its address, and serves plain HTTP/1.1 until its input ends.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	log.SetOutput(io.Discard)
	fmt.Println(listener.Addr())
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
	}
	go func() { _ = http.Serve(listener, http.HandlerFunc(handler)) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
}
