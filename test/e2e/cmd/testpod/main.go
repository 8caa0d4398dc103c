// testpod is what the test pods run: "pause" waits, "serve" answers HTTP with its host name, "get URL" asks once.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: testpod pause | serve | get URL")
	}
	switch os.Args[1] {
	case "pause":
		wait()
	case "serve":
		go serve()
		go echo()
		wait()
	case "get":
		get(os.Args[2])
	default:
		log.Fatalf("no %q", os.Args[1])
	}
}

// wait reaps, as process 1 of a pod must, until it is told to end.
func wait() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range c {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func serve() {
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, host) })
	log.Fatal(http.ListenAndServe(":8080", nil))
}

// echo sends datagrams back.
func echo() {
	c, err := net.ListenPacket("udp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 65536)
	for {
		n, addr, err := c.ReadFrom(buf)
		if err == nil {
			_, err = c.WriteTo(buf[:n], addr)
		}
		if err != nil {
			log.Print(err)
		}
	}
}

func get(url string) {
	c := http.Client{Timeout: 3 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		log.Fatal(err)
	}
}
