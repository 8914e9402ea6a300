"""The ROS 2 side, thin: messages and threads around `vgssl_core`."""
