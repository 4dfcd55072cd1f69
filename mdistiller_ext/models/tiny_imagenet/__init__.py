"""Networks made for 64x64 images only; the rest of mdistiller's Tiny-ImageNet zoo are CIFAR networks, registered twice."""
