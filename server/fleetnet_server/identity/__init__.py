"""Who a device is: names, certificates, what a registry must offer, and the decision."""
