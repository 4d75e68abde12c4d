def find(connection, name):
    connection.execute("SELECT id FROM devices WHERE name = '%s'" % name)
    connection.execute("SELECT id FROM devices WHERE name = '{}'".format(name))
