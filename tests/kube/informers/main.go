// informers: real client-go informers that tell what they hold, and a churner that gives them something to hold. It is
// built with the newest client-go (go.mod) and with an old one (old.mod), so it uses what both have.
//
// It is led through its standard input, a word a line, and answers on its standard output:
//
//	informers watch KUBECONFIG json|protobuf    "synced MILLISECONDS" when all hold their first list; at "dump" what
//	                                            they hold and how often they asked, then "end"
//	informers churn KUBECONFIG SEED             writes until "pause", says "paused WRITES", goes on at "resume"
//
// It ends when its standard input does.
package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Where the churner writes.
const namespace = "churn"

func main() {
	if len(os.Args) != 4 {
		fail("usage: informers watch KUBECONFIG json|protobuf | informers churn KUBECONFIG SEED")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[2])
	must(err)
	config.QPS, config.Burst = 1000, 1000
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch os.Args[1] {
	case "watch":
		watch(ctx, config, os.Args[3])
	case "churn":
		seed, err := strconv.ParseInt(os.Args[3], 10, 64)
		must(err)
		churn(ctx, config, rand.New(rand.NewSource(seed)))
	default:
		fail("unknown work " + os.Args[1])
	}
}

func watch(ctx context.Context, config *rest.Config, encoding string) {
	if encoding == "protobuf" {
		config.ContentType = "application/vnd.kubernetes.protobuf"
		config.AcceptContentTypes = config.ContentType + ",application/json"
	}
	begun := time.Now()
	held := start(ctx, config)
	for !held.synced() {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("synced", time.Since(begun).Milliseconds())
	for line := range lines() {
		if line == "dump" {
			held.dump()
		}
	}
}

// The lines of the standard input, as they come.
func lines() <-chan string {
	told := make(chan string)
	go func() {
		defer close(told)
		for input := bufio.NewScanner(os.Stdin); input.Scan(); {
			told <- input.Text()
		}
	}()
	return told
}

func must(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
