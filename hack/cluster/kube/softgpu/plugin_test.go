package main

import (
	"bytes"
	"context"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	devices "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// kubelet takes registrations as a node's does.
type kubelet struct {
	devices.UnimplementedRegistrationServer
	registered chan *devices.RegisterRequest
	refusal    error
}

func (k *kubelet) Register(_ context.Context, r *devices.RegisterRequest) (*devices.Empty, error) {
	k.registered <- r
	return &devices.Empty{}, k.refusal
}

// node is a kubelet's folder with a kubelet that listens in it, and a driver.
func node(t *testing.T, refusal error) (*kubelet, string, string) {
	t.Helper()
	folder := t.TempDir()
	driver := filepath.Join(folder, "libcuda.so.1")
	if err := os.WriteFile(driver, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(folder, "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{registered: make(chan *devices.RegisterRequest, 1), refusal: refusal}
	server := grpc.NewServer()
	devices.RegisterRegistrationServer(server, k)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return k, folder, driver
}

func TestAContainerGetsTheDriver(t *testing.T) {
	k, folder, driver := node(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--kubelet", folder, "--driver", driver, "--gpus", "3", "--env", "SOFTCUDA_THREADS=1", "--env", "A=b=c"}, &out)
	}()
	request := <-k.registered
	if request.Version != "v1beta1" || request.ResourceName != "nvidia.com/gpu" {
		t.Errorf("registered %v", request)
	}

	connection, err := grpc.NewClient("unix://"+filepath.Join(folder, request.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	client := devices.NewDevicePluginClient(connection)
	if _, err := client.GetDevicePluginOptions(ctx, &devices.Empty{}); err != nil {
		t.Error(err)
	}
	stream, err := client.ListAndWatch(ctx, &devices.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, d := range list.Devices {
		ids[d.ID] = d.Health == devices.Healthy
	}
	if !maps.Equal(ids, map[string]bool{"softgpu-0": true, "softgpu-1": true, "softgpu-2": true}) {
		t.Errorf("devices: %v", list.Devices)
	}

	reply, err := client.Allocate(ctx, &devices.AllocateRequest{ContainerRequests: []*devices.ContainerAllocateRequest{
		{DevicesIds: []string{"softgpu-1"}}, {DevicesIds: []string{"softgpu-0", "softgpu-2"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i, count := range []string{"1", "2"} {
		got := reply.ContainerResponses[i]
		want := map[string]string{"LD_LIBRARY_PATH": driverFolder, "SOFTCUDA_DEVICES": count, "SOFTCUDA_THREADS": "1", "A": "b=c"}
		if !maps.Equal(got.Envs, want) {
			t.Errorf("variables: %v, want %v", got.Envs, want)
		}
		if len(got.Mounts) != 1 || got.Mounts[0].HostPath != driver || got.Mounts[0].ContainerPath != driverFolder+"/libcuda.so.1" || !got.Mounts[0].ReadOnly {
			t.Errorf("mounts: %v", got.Mounts)
		}
	}
	_, err = client.Allocate(ctx, &devices.AllocateRequest{ContainerRequests: []*devices.ContainerAllocateRequest{{DevicesIds: []string{"softgpu-3"}}}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `no device "softgpu-3": there are softgpu-0 to softgpu-2`) {
		t.Errorf("a device that is none: %v", err)
	}

	cancel()
	if s := <-ended; s != 0 {
		t.Errorf("interrupted, it ends with %d: %s", s, &out)
	}
	if _, err := os.Stat(filepath.Join(folder, request.Endpoint)); !os.IsNotExist(err) {
		t.Errorf("its socket is left: %v", err)
	}
}

func TestItSaysWhatIsWrong(t *testing.T) {
	_, folder, driver := node(t, status.Error(codes.InvalidArgument, "the version is not supported"))
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, 2, "--driver is needed"},
		{[]string{"--driver", driver, "--gpus", "0"}, 2, "--gpus 0: want a number from 1"},
		{[]string{"--driver", driver, "--gpus", "x"}, 2, "softgpu --help"},
		{[]string{"--driver", driver, "--env", "SOFTCUDA_THREADS"}, 2, "want NAME=VALUE"},
		{[]string{"--driver", driver, "extra"}, 2, `unexpected argument "extra"`},
		{[]string{"--driver", filepath.Join(folder, "none")}, 2, "make softcuda builds it"},
		{[]string{"--driver", folder}, 2, "want a file"},
		{[]string{"--driver", driver, "--kubelet", filepath.Join(folder, "nowhere")}, 1, "listening for the kubelet"},
		{[]string{"--driver", driver, "--kubelet", folder}, 1, "the version is not supported"},
		{[]string{"--help"}, 0, "-gpus number"},
	} {
		var out bytes.Buffer
		if got := run(t.Context(), test.args, &out); got != test.status || !strings.Contains(out.String(), test.want) {
			t.Errorf("%q: status %d, %s; want %d and %q", test.args, got, &out, test.status, test.want)
		}
	}
}
