"""Networks for 224x224 images: mdistiller's ImageNet zoo, ResNet152 and MobileNetV2.

Every network takes other sizes too: where upstream averages 7x7 windows, these average the whole map.
"""
