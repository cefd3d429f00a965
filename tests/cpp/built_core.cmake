# The core as another build folder of these sources compiled it.
foreach(part IN ITEMS common ops data)
  add_library(fluxcore_${part} STATIC IMPORTED GLOBAL)
  set_target_properties(fluxcore_${part} PROPERTIES
    IMPORTED_LOCATION "${FLUXCORE_BUILT_CORE}/csrc/libfluxcore_${part}.a"
    SYSTEM OFF) # its headers are ours: their warnings are errors here too
endforeach()
target_link_libraries(fluxcore_common INTERFACE fluxcore_options Threads::Threads)
target_link_libraries(fluxcore_ops INTERFACE fluxcore_common)
target_link_libraries(fluxcore_data INTERFACE fluxcore_common)
