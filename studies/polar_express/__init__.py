"""The claims of the paper on Polar Express, one by one."""
