package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	devices "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	// socket is the plugin's own, in the kubelet's folder.
	socket = "softgpu.sock"
	// driverFolder is where containers find the driver, which LD_LIBRARY_PATH names.
	driverFolder = "/usr/local/softcuda"
	// patience bounds the registration.
	patience = 10 * time.Second
)

// serve registers the plugin and answers the kubelet until ctx ends.
func serve(ctx context.Context, s settings, out io.Writer) error {
	path := filepath.Join(s.kubelet, socket)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing an earlier plugin's socket: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listening for the kubelet: %w", err)
	}
	server := grpc.NewServer()
	devices.RegisterDevicePluginServer(server, &plugin{settings: s, done: ctx.Done()})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // ends with Stop
	defer server.Stop()
	// The kubelet calls back before it answers.
	if err := register(ctx, s); err != nil {
		return err
	}
	fmt.Fprintf(out, "softgpu: %d of %s with %s\n", s.gpus, s.resource, s.driver)
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		return fmt.Errorf("serving the kubelet: %w", err)
	}
}

func register(ctx context.Context, s settings) error {
	kubelet := filepath.Join(s.kubelet, filepath.Base(devices.KubeletSocket))
	connection, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("calling the kubelet at %s: %w", kubelet, err)
	}
	defer connection.Close() //nolint:errcheck // nothing is under way any more
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = devices.NewRegistrationClient(connection).Register(ctx, &devices.RegisterRequest{
		Version: devices.Version, Endpoint: socket, ResourceName: s.resource, Options: &devices.DevicePluginOptions{},
	})
	if err != nil {
		return fmt.Errorf("registering with the kubelet at %s: %w", kubelet, err)
	}
	return nil
}

// plugin is the kubelet's side of it: the devices there are, and what a container gets with one.
type plugin struct {
	devices.UnimplementedDevicePluginServer
	settings
	// done ends the list of devices.
	done <-chan struct{}
}

// GetDevicePluginOptions implements devices.DevicePluginServer: there are none.
func (p *plugin) GetDevicePluginOptions(context.Context, *devices.Empty) (*devices.DevicePluginOptions, error) {
	return &devices.DevicePluginOptions{}, nil
}

// ListAndWatch implements devices.DevicePluginServer. Nothing happens to GPUs like these, so that the list never changes.
func (p *plugin) ListAndWatch(_ *devices.Empty, stream grpc.ServerStreamingServer[devices.ListAndWatchResponse]) error {
	list := &devices.ListAndWatchResponse{}
	for i := range p.gpus {
		list.Devices = append(list.Devices, &devices.Device{ID: device(i), Health: devices.Healthy})
	}
	if err := stream.Send(list); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-stream.Context().Done():
	}
	return nil
}

// device is the identity of the GPU of this index.
func device(i int) string { return fmt.Sprintf("softgpu-%d", i) }

// Allocate implements devices.DevicePluginServer: a container gets the driver, which shows it as many devices as it asked
// for.
func (p *plugin) Allocate(_ context.Context, request *devices.AllocateRequest) (*devices.AllocateResponse, error) {
	known := make([]string, p.gpus)
	for i := range known {
		known[i] = device(i)
	}
	response := &devices.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		for _, id := range container.DevicesIds {
			if !slices.Contains(known, id) {
				return nil, status.Errorf(codes.InvalidArgument, "no device %q: there are %s to %s", id, known[0], known[p.gpus-1])
			}
		}
		env := map[string]string{
			"LD_LIBRARY_PATH":  driverFolder,
			"SOFTCUDA_DEVICES": fmt.Sprint(len(container.DevicesIds)),
		}
		maps.Copy(env, p.variables)
		response.ContainerResponses = append(response.ContainerResponses, &devices.ContainerAllocateResponse{
			Envs: env,
			Mounts: []*devices.Mount{{
				ContainerPath: filepath.Join(driverFolder, "libcuda.so.1"), HostPath: p.driver, ReadOnly: true,
			}},
		})
	}
	return response, nil
}
