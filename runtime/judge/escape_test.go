package judge

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// attempt is a program whose f tries to get out and returns whether it could.
type attempt struct {
	name, program string
	// why holds ways in which the explanation goes on: what refused it depends on
	// the layers.
	why []string
}

// refused are the words for what is not there or not allowed.
var refused = []string{"PermissionError", "FileNotFoundError"}

// outside is what programs try to reach: it belongs to this test.
type outside struct {
	folder, secret   string
	tcp, unix        net.Listener
	udp              net.PacketConn
	connections      atomic.Int32
	tcpPort, udpPort int
	unixPath         string
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{folder: t.TempDir()}
	o.secret = filepath.Join(o.folder, "secret")
	o.unixPath = filepath.Join(o.folder, "socket")
	err := os.WriteFile(o.secret, []byte("secret"), 0o644)
	if err == nil {
		err = os.Chmod(o.folder, 0o777)
	}
	if err == nil {
		o.tcp, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err == nil {
		o.unix, err = net.Listen("unix", o.unixPath)
	}
	if err == nil {
		o.udp, err = net.ListenPacket("udp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	o.tcpPort = o.tcp.Addr().(*net.TCPAddr).Port
	o.udpPort = o.udp.LocalAddr().(*net.UDPAddr).Port
	for _, l := range []net.Listener{o.tcp, o.unix} {
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				o.connections.Add(1)
				_ = c.Close()
			}
		}()
	}
	t.Cleanup(func() { _ = o.udp.Close() })
	go func() {
		buffer := make([]byte, 16)
		for {
			if _, _, err := o.udp.ReadFrom(buffer); err != nil {
				return
			}
			o.connections.Add(1)
		}
	}()
	return o
}

// attempts need o and the process of this test.
func attempts(o *outside) []attempt {
	pid := os.Getpid()
	libc := "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n" +
		"def call(*a):\n  r = libc.syscall(*a)\n  if r < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n  return r\n"
	return []attempt{
		{"reading a file outside", fmt.Sprintf("def f():\n  return open(%q).read() == 'secret'", o.secret), refused},
		{"reading a file of the system's", "def f():\n  return len(open('/etc/passwd').read()) > 0", refused},
		{"reading it by another way", "import os\ndef f():\n  return len(os.read(os.open('/usr/lib/../../etc/hostname', os.O_RDONLY), 9)) > 0", refused},
		{"listing a folder outside", fmt.Sprintf("import os\ndef f():\n  return len(os.listdir(%q)) > 0", o.folder), refused},
		{"writing a file outside", fmt.Sprintf("def f():\n  open(%q, 'w').write('x')\n  return True", filepath.Join(o.folder, "new")), refused},
		{"writing a file anywhere", "import tempfile\ndef f():\n  tempfile.NamedTemporaryFile()\n  return True", refused},
		{"changing the standard library", "import os\ndef f():\n  os.open(os.__file__, os.O_WRONLY)\n  return True", append([]string{"OSError: [Errno 30]"}, refused...)},
		{"removing a file outside", fmt.Sprintf("import os\ndef f():\n  os.unlink(%q)\n  return True", o.secret), refused},
		{"a folder", "import os\ndef f():\n  os.mkdir('/tmp/escaped')\n  return True", refused},
		{"a link", fmt.Sprintf("import os\ndef f():\n  os.symlink('/', %q)\n  return True", filepath.Join(o.folder, "link")), refused},
		{"changing a mode", fmt.Sprintf("import os\ndef f():\n  os.chmod(%q, 0o777)\n  return True", o.secret), refused},
		{"TCP", fmt.Sprintf("import socket\ndef f():\n  socket.create_connection(('127.0.0.1', %d), 1)\n  return True", o.tcpPort), refused},
		{"listening", "import socket\ndef f():\n  socket.create_server(('127.0.0.1', 0))\n  return True", refused},
		{"UDP", fmt.Sprintf("import socket\ndef f():\n  socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', %d))\n  return True", o.udpPort), refused},
		{"a unix socket", fmt.Sprintf("import socket\ndef f():\n  socket.socket(socket.AF_UNIX).connect(%q)\n  return True", o.unixPath), refused},
		{"an abstract unix socket", "import socket\ndef f():\n  socket.socket(socket.AF_UNIX).bind('\\0escaped')\n  return True", refused},
		{"a pair of sockets", "import socket\ndef f():\n  socket.socketpair()\n  return True", refused},
		{"a socket of the kernel's", "import socket\ndef f():\n  socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\n  return True", refused},
		{"many processes", "import os\ndef f():\n  for i in range(1000):\n    if os.fork() == 0: os._exit(0)\n  return True", refused},
		{"a thread", "import threading\ndef f():\n  threading.Thread(target=print).start()\n  return True", []string{"RuntimeError: can't start new thread"}},
		{"another program", "import os\ndef f():\n  os.execv('/bin/true', ['true'])", refused},
		{"the interpreter again", "import os, sys\ndef f():\n  os.execv(sys.executable, ['python3', '-c', ''])", refused},
		{"a program as a child", "import subprocess\ndef f():\n  subprocess.run(['/bin/true'])\n  return True", refused},
		{"a program by spawn", "import os\ndef f():\n  os.posix_spawn('/bin/true', ['true'], {})\n  return True", refused},
		{"a signal to the judge", fmt.Sprintf("import os\ndef f():\n  os.kill(%d, 0)\n  return True", pid), append([]string{"ProcessLookupError"}, refused...)},
		{"a signal to the parent", "import os\ndef f():\n  os.kill(os.getppid(), 9)\n  return True", refused},
		{"a signal to everybody", "import os\ndef f():\n  os.kill(-1, 9)\n  return True", refused},
		{"another group", "import os\ndef f():\n  os.setsid()\n  return True", refused},
		{"looking at the judge", fmt.Sprintf("def f():\n  return len(open('/proc/%d/environ').read()) >= 0", pid), refused},
		{"looking at itself", "def f():\n  return len(open('/proc/self/maps').read()) > 0", refused},
		{"tracing", libc + fmt.Sprintf("def f():\n  libc.ptrace.restype = ctypes.c_long\n  if libc.ptrace(16, %d, 0, 0) < 0: raise OSError(ctypes.get_errno(), '')\n  return True", pid), refused},
		{"the page of the one execve", "import ctypes, os\ndef f():\n  m = ctypes.CDLL(None, use_errno=True).mmap\n  m.restype = ctypes.c_void_p\n" +
			"  p = m(ctypes.c_void_p(0x100000), 4096, 3, 0x32, -1, 0)\n  if p != 0x100000: raise PermissionError(p)\n  return True", refused},
		{"more memory than is allowed", "import resource\ndef f():\n  resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n  return True",
			append([]string{"ValueError"}, refused...)},
		{"less confinement", libc + "def f():\n  if libc.prctl(38, 0, 0, 0, 0) < 0: raise OSError(ctypes.get_errno(), '')\n  return True", refused},
		{"a mount", libc + "def f():\n  if libc.mount(b'x', b'/', b'tmpfs', 0, None) < 0: raise OSError(ctypes.get_errno(), '')\n  return True", refused},
		{"namespaces", libc + "def f():\n  if libc.unshare(0x10000000) < 0: raise OSError(ctypes.get_errno(), '')\n  return True", refused},
		{"a file in memory", "import os\ndef f():\n  os.memfd_create('x')\n  return True", refused},
		{"the environment", "import os\ndef f():\n  return not set(os.environ) <= {'PYTHONHASHSEED', 'LC_ALL', 'LC_CTYPE'}", []string{"f() is False"}},
		{"inherited descriptors", "import os, stat\ndef f():\n  kinds = []\n  for fd in range(64):\n    try: kinds.append(stat.S_IFMT(os.fstat(fd).st_mode))\n" +
			"    except OSError: pass\n  return not (set(kinds) <= {stat.S_IFCHR, stat.S_IFIFO} and len(kinds) <= 6)", []string{"f() is False"}},
	}
}

func TestEscapesFailAndTheJudgeGoesOn(t *testing.T) {
	forEachLayering(t, Limits{}, func(t *testing.T, p *Pool) {
		o := newOutside(t)
		for _, a := range attempts(o) {
			t.Run(a.name, func(t *testing.T) {
				got, err := p.Run(t.Context(), Job{Program: a.program, Tests: []string{"assert f() == True"}})
				if err != nil || got.Passed || !beginsWith(got.Why, a.why) {
					t.Errorf("Run = %+v, %v, want one of %q", got, err, a.why)
				}
			})
		}
		mustGoOn(t, p)
		if n := o.connections.Load(); n != 0 {
			t.Errorf("%d messages came through", n)
		}
		entries, err := os.ReadDir(o.folder)
		if err != nil || len(entries) != 2 {
			t.Errorf("the folder outside has %v, %v, want the secret and the socket", entries, err)
		}
		if _, err := os.Lstat("/tmp/escaped"); err == nil {
			t.Error("a folder was made outside")
		}
	})
}

func beginsWith(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// TestWhatIsTooMuchEndsAndTheJudgeGoesOn runs what takes too much time in a pool
// that gives little of it, and what takes too much of something else in one that
// gives enough: a machine with much else to do may need a second of processor time
// to fill the memory.
func TestWhatIsTooMuchEndsAndTheJudgeGoesOn(t *testing.T) {
	processor := []string{"the program used more than 1 s of processor time", "the program took longer"}
	time := []attempt{
		{"an endless loop", "while True: pass", processor},
		{"an endless loop in a test", "def f():\n  while True: pass", processor},
		{"an endless loop without exceptions", "def f():\n  while True:\n    try:\n      while True: pass\n    except BaseException: pass", processor},
		{"one long step", "def f(): return 7 ** (7 ** 9)", append([]string{"MemoryError"}, processor...)},
		{"endless sleep", "import time\ntime.sleep(1e6)", []string{"the program took longer than 10s"}},
		{"much output", "while True: print('x' * 65536)", processor},
		{"an iterator without end", "import itertools\ndef f(): return itertools.count()", append([]string{"the tests used more"}, processor...)},
	}
	others := []attempt{
		{"endless recursion", "def f(): return f()", []string{"RecursionError"}},
		{"much memory at once", "x = bytearray(1 << 40)", []string{"MemoryError"}},
		{"much memory bit by bit", "x = []\nwhile True: x.append('x' * (1 << 20) + str(len(x)))", []string{"MemoryError"}},
		{"much memory past the interpreter", "import mmap\nx = [mmap.mmap(-1, 1 << 27) for i in range(100)]",
			append([]string{"OSError", "MemoryError"}, refused...)},
		{"a large value", "def f(): return 'x' * (20 << 20)", []string{"ValueError: a value of more than 16 MiB"}},
		{"a value without end", "def f():\n  x = []\n  x.append(x)\n  return x", []string{"RecursionError"}},
		{"deeply nested brackets", "x = " + strings.Repeat("(", 100000), []string{"SyntaxError", "MemoryError", "RecursionError", "the program was ended by"}},
		{"an abort", "import os\nos.abort()", []string{"the program was ended by"}},
	}
	for _, group := range []struct {
		limits   Limits
		attempts []attempt
	}{{fast, time}, {DefaultLimits(), others}} {
		// Limits are the same whatever the layers are.
		p := newPool(t, Options{Without: []string{LayerNamespaces}, Limits: group.limits, Workers: 4}) // Some only sleep.
		for _, test := range group.attempts {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				got, err := p.Run(t.Context(), Job{Program: test.program, Tests: []string{"assert -1 in f()"}})
				if err != nil || got.Passed || !beginsWith(got.Why, test.why) {
					t.Errorf("Run = %+v, %v, want one of %q", got, err, test.why)
				}
				mustGoOn(t, p)
			})
		}
	}
}
