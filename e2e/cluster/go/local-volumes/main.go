// Command local-volumes provisions a folder below -root for every claim of its StorageClass, as a `local`
// PersistentVolume bound to the node that the scheduler selected.
//
// It makes `local` volumes and not `hostPath` ones because the kubelet applies a pod's fsGroup to the former only: a
// pod that forgets its fsGroup fails here as it would on a real block device. Sizes are not enforced.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v10/controller"
)

const provisionerName = "llmos.dev/local"

type provisioner struct{ root string }

func (p *provisioner) folder(volume string) string { return filepath.Join(p.root, volume) }

func (p *provisioner) Provision(
	_ context.Context, options controller.ProvisionOptions,
) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	if options.SelectedNode == nil {
		return nil, controller.ProvisioningFinished, fmt.Errorf(
			"no node was selected for claim %s: its StorageClass must use volumeBindingMode WaitForFirstConsumer",
			options.PVC.Name)
	}
	// 0755 and owned by root: only fsGroup makes it writable for anyone else.
	if err := os.MkdirAll(p.folder(options.PVName), 0o755); err != nil {
		return nil, controller.ProvisioningNoChange, err
	}
	hostname := options.SelectedNode.Labels[v1.LabelHostname]
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: options.PVC.Spec.Resources.Requests[v1.ResourceStorage]},
			VolumeMode:                    options.PVC.Spec.VolumeMode,
			PersistentVolumeSource: v1.PersistentVolumeSource{
				Local: &v1.LocalVolumeSource{Path: p.folder(options.PVName)},
			},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{
					{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{hostname}},
				},
			}}}},
		},
	}, controller.ProvisioningFinished, nil
}

func (p *provisioner) Delete(_ context.Context, volume *v1.PersistentVolume) error {
	return os.RemoveAll(p.folder(volume.Name))
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig of a user that may manage PersistentVolumes")
	root := flag.String("root", "", "folder below which each volume gets its own folder")
	flag.Parse()
	if *kubeconfig == "" || !filepath.IsAbs(*root) {
		log.Fatal("both are required: -kubeconfig FILE and an absolute -root FOLDER")
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	controller.NewProvisionController(
		klog.FromContext(ctx), client, provisionerName, &provisioner{root: *root}, controller.LeaderElection(false),
	).Run(ctx)
}
