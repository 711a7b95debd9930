package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// awsEndpoint is where S3Source.Endpoint is empty.
const awsEndpoint = "https://s3.amazonaws.com"

// S3Keys are those of an access key. Without an ID, they are those of where the process
// runs, if Ambient says so; else requests are not signed, as of a public bucket.
type S3Keys struct {
	ID, Secret, SessionToken string
	Ambient                  bool
}

// bucket is a folder of an S3 bucket.
type bucket struct {
	*receiver
	core   minio.Core
	source contract.S3Source
	prefix string
	where  string
}

func openS3(ctx context.Context, s contract.S3Source, scratch string, o Options, m *meter) (tree, error) {
	address := s.Endpoint
	if address == "" {
		address = awsEndpoint
	}
	endpoint, err := parseAddress(address, "the endpoint of s3")
	if err != nil {
		return nil, err
	}
	if strings.Trim(endpoint.Path, "/") != "" || endpoint.User != nil {
		return nil, failure.Permanentf(contract.ReasonUsage, "the endpoint of s3 %s is more than scheme, host and port", shown(endpoint))
	}
	client := o.Client
	if client == nil {
		client = NewClient()
	}
	options := &minio.Options{
		Creds: s3Credentials(o.S3), Secure: endpoint.Scheme == "https", Region: s.Region, Transport: transport(client),
		// The download goes on by itself; a Job does the rest.
		MaxRetries: 1,
	}
	if s.Endpoint != "" {
		// Of AWS alone it is known that a bucket's name is a host.
		options.BucketLookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(endpoint.Host, options)
	if err != nil {
		return nil, failure.Permanentf(contract.ReasonUsage, "s3 at %s: %w", shown(endpoint), err)
	}
	prefix := path.Clean("/" + s.Prefix)[1:]
	b := &bucket{receiver: newReceiver(o, m), core: *core, source: s, prefix: prefix, where: fmt.Sprintf("s3://%s at %s", path.Join(s.Bucket, prefix), endpoint.Host)}
	switch {
	case o.file || isExpertFile(prefix):
		return &object{bucket: b}, nil
	case isArchive(prefix):
		return receiveArchive(ctx, b.receiver, b.opening(prefix), prefix, b.where, scratch)
	}
	return b, nil
}

func transport(c *http.Client) http.RoundTripper {
	if c.Transport == nil {
		return http.DefaultTransport
	}
	return c.Transport
}

func s3Credentials(keys S3Keys) *credentials.Credentials {
	switch {
	case keys.ID != "":
		return credentials.NewStaticV4(keys.ID, keys.Secret, keys.SessionToken)
	case keys.Ambient:
		return credentials.NewIAM("")
	default:
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
	}
}

// opening returns how an object is asked for.
func (b *bucket) opening(key string) opening {
	return func(ctx context.Context, from int64, tag string) (transfer, error) {
		var options minio.GetObjectOptions
		if from > 0 {
			if err := errors.Join(options.SetRange(from, 0), options.SetMatchETag(tag)); err != nil {
				return transfer{}, err
			}
		}
		body, info, header, err := b.core.GetObject(ctx, b.source.Bucket, key, options)
		if err != nil {
			return transfer{}, b.explain(ctx, key, err)
		}
		t := transfer{body: body, size: info.Size, tag: info.ETag}
		if from > 0 {
			begins, size := contentRange(header.Get("Content-Range"))
			if begins != from || info.ETag != tag {
				return transfer{}, errors.Join(changed(b.name(key)), body.Close())
			}
			t.size = size
		}
		return t, nil
	}
}

func (b *bucket) name(key string) string {
	return fmt.Sprintf("s3://%s/%s", b.source.Bucket, key)
}

// explain says what an S3 server means by an error. Without the right to list a bucket, a
// key that is not there is one that may not be read.
func (b *bucket) explain(ctx context.Context, key string, err error) error {
	answer, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return unreachable(ctx, b.name(key), err)
	}
	switch answer.Code {
	case minio.NoSuchKey:
		return fmt.Errorf("%s is not there: %w", b.name(key), fs.ErrNotExist)
	case minio.NoSuchBucket:
		return failure.Transientf(contract.ReasonSourceNotFound, "there is no bucket %s at %s: check endpoint, region and bucket", b.source.Bucket, b.core.EndpointURL().Host)
	case minio.PreconditionFailed:
		return changed(b.name(key))
	}
	if answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden {
		return failure.Permanentf(contract.ReasonUnauthorized,
			"reading %s: the server answers %s (%s): give an access key that may read it in secretRef, or say ambient; without the right to list the bucket, a key that is not there looks like this, too",
			b.name(key), answer.Code, answer.Message)
	}
	return failure.Transientf(contract.ReasonSourceUnreachable, "reading %s: the server answers %s (%s)", b.name(key), answer.Code, answer.Message)
}

func (b *bucket) take(ctx context.Context, name, dst string, limit int64) error {
	return b.takeKey(ctx, path.Join(b.prefix, name), dst, limit)
}

func (b *bucket) takeKey(ctx context.Context, key, dst string, limit int64) error {
	return b.receiver.take(ctx, b.opening(key), b.name(key), dst, limit, nil)
}

func (b *bucket) String() string { return b.where }

func (b *bucket) revision() string { return "" }

func (b *bucket) close() error { return nil }

// object is one file of a bucket.
type object struct{ *bucket }

func (f *object) takeOnly(ctx context.Context, dst string, limit int64) error {
	return f.takeKey(ctx, f.prefix, dst, limit)
}
