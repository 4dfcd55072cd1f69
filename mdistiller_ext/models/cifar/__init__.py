"""Networks for 32x32 images: mdistiller's CIFAR-100 zoo."""
