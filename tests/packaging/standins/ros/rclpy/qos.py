"""A profile, by name."""

qos_profile_sensor_data = "sensor data"
