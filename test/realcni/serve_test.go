package realcni

import (
	"io"
	"net"
	"os"
	"time"
)

// echoPort is where a pod's server answers TCP and UDP: RFC 862.
const echoPort = "7"

// serve is the process of a pod: it sends back what it gets, until it is ended.
func serve() {
	go func() {
		time.Sleep(time.Hour) // longer than any run; the sandbox ends it long before
		os.Exit(0)
	}()
	udp, err := net.ListenPacket("udp", ":"+echoPort)
	if err != nil {
		os.Exit(1)
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				os.Exit(1)
			}
			_, _ = udp.WriteTo(buf[:n], from)
		}
	}()
	tcp, err := net.Listen("tcp", ":"+echoPort)
	if err != nil {
		os.Exit(1)
	}
	for {
		conn, err := tcp.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}
