"""The library: everything that turns geotagged images into geo-poses; never imports ROS."""
