"""The corruptions of CIFAR-10-C as pure functions (key, x, severity) -> x, with real severities from 0 to 5.

```
table       the nineteen of them by name
parameters  the published constants by severity
noise       gaussian, shot, impulse, speckle
blur        gaussian, defocus, glass, motion, zoom
weather     snow, frost, fog
spatter     water and mud
digital     brightness, contrast, saturate, pixelate, elastic transform
jpeg        JPEG compression
```

What they are made of:

```
severity    parameters between whole severities, batches from single images
smoothing   linear filters of traced width
fractal     random landscapes
draws       random numbers
```
"""
